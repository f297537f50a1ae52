"""The certificate that HTTPS shows, and its exchange without dropping a connection."""

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError

CHECK_INTERVAL_S: Final = 2.0
# Two stat calls. An operator who has put a new certificate in place sees it at the next look.

_CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
# TLS 1.3 has only AEAD suites; of TLS 1.2 these are the ones with forward secrecy.

_log = logging.getLogger(__name__)


class ServerCertificate:
    """A chain and its key in PEM files, as an SSLContext that stays the same object when they change.

    OpenSSL gives each new connection the certificate of its context at that moment; those that exist keep theirs.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises PreconditionError when the files do not make a certificate."""
        self._chain = chain
        self._key = key
        self._seen = self._state()
        self.context = _context()
        _load(self.context, chain, key)

    async def watch(self) -> None:
        """Take up new files when they change, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.reload_if_changed()

    def reload_if_changed(self) -> bool:
        """True if another certificate is shown from now on. Files that do not fit together, such as a new chain whose
        key is still being written, leave the old one in place."""
        try:
            state = self._state()
        except OSError as error:
            _log.warning("certificate: %s", error)
            return False
        if state == self._seen:
            return False
        try:
            _load(_context(), self._chain, self._key)  # a rehearsal: a failed load could leave half of it in place
            _load(self.context, self._chain, self._key)
        except PreconditionError as error:
            _log.warning("certificate not taken up: %s", error)
            return False
        self._seen = state
        _log.info("certificate taken up from %s", self._chain)
        return True

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        files = (os.stat(self._chain), os.stat(self._key))
        return tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in files)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_TLS12)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _load(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    try:
        context.load_cert_chain(chain, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise PreconditionError(
            f"{chain}, {key}: {error}", public=f"{chain} and {key} do not make a certificate"
        ) from error


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted; give one without a passphrase, readable by the API's user alone")
