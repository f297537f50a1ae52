"""A webhook: one POST over HTTPS, signed, no redirect followed, and only 2xx is an arrival."""

import hashlib
import hmac
from typing import Final

from cloister.base.errors import UnavailableError
from cloister.trust.sending.https import exchange

SIGNATURE: Final = "Cloister-Signature"


def signature(secret: str, at: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA-256 over the time, a dot, and the body. A receiver refuses old times."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


async def post(url: str, body: bytes, headers: dict[str, str], *, ca_file: str, private: bool) -> None:
    """One POST, no redirect followed. Raises UnavailableError unless the answer is 2xx."""
    said = {"Content-Type": "application/json", **headers}
    answer = await exchange("POST", url, said, body, ca_file=ca_file, private=private)
    if not 200 <= answer.status < 300:
        raise UnavailableError(public=f"answered {answer.status}")
