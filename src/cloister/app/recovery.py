"""Recovery of an account whose passkeys are lost: by root, on the server, past the API, whose every way a thief could take as well."""

import asyncio
from pathlib import Path

from cloister.base.database import owner
from cloister.base.errors import PreconditionError
from cloister.base.identities import am_root
from cloister.base.settings import load
from cloister.control.passkeys.recovery import recover


def recover_passkeys(state_dir: Path, email: str, reason: str) -> list[str]:
    """The names of the passkeys that were taken away. Raises CloisterError."""
    if not am_root():
        raise PreconditionError(public="only root on the server takes somebody's passkeys away")
    settings = load(state_dir)

    async def run() -> list[str]:
        async with owner.connected(settings) as database:
            return [it.name for it in await recover(database, email, reason)]

    return asyncio.run(run())
