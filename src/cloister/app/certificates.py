"""One-shot, as root: bring the certificates to where they must be. At every start, and some times a day after that."""

from datetime import UTC, datetime
from pathlib import Path

from cloister.base.settings import Settings
from cloister.trust.certificates.renewal import Supplied, ensure


async def run(settings: Settings) -> None:
    supplied = (
        Supplied(Path(settings.tls_cert_file), Path(settings.tls_key_file))
        if settings.tls_cert_file and settings.tls_key_file
        else None
    )
    ensure(settings.paths, settings.domain, datetime.now(UTC), supplied)
