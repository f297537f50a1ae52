"""A role's password in the two forms that outlive the request: a SCRAM verifier, and, only where the project asks for it,
sealed text that `reveal_password` can open again.

The clear password exists in the answer to the request that made it, and nowhere else.
"""

import secrets

from cryptography.exceptions import InvalidTag

from cloister.base.errors import InternalError
from cloister.base.ids import BranchId
from cloister.base.sealing import Sealer
from cloister.base.secret import Secret
from cloister.protocol.scram import Verifier
from cloister.protocol.scram.verifier import SALT_BYTES


def new_verifier(password: Secret[str]) -> str:
    """The verifier of a password of `new_password`, with a fresh salt."""
    return str(Verifier.of_password(password.reveal(), salt=secrets.token_bytes(SALT_BYTES)))


class Vault:
    """Seals passwords for the `pg_role.password` column: AES-256-GCM, bound to the row, so that a sealed password moved
    to another role's row does not open."""

    def __init__(self, key: Secret[bytes]) -> None:
        self._sealer = Sealer(key.reveal())

    def seal(self, branch_id: BranchId, role: str, password: Secret[str]) -> bytes:
        return self._sealer.seal(password.reveal().encode(), _place(branch_id, role))

    def open(self, branch_id: BranchId, role: str, sealed: bytes) -> Secret[str]:
        try:
            return Secret(self._sealer.open(sealed, _place(branch_id, role)).decode())
        except InvalidTag:
            raise InternalError(f"the sealed password of {role!r} in {branch_id} does not open") from None


def _place(branch_id: BranchId, role: str) -> bytes:
    # NUL can be in neither part, so no two places read the same.
    return b"\0".join([b"pg_role", b"password", branch_id.encode(), role.encode()])
