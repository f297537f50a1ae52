"""A root key in the transit engine of Vault or OpenBao, which never leaves it. Plain HTTP/1.1 over TLS, no client library.

Not tried on a live server: tested against a small one that answers as the API's description says. The key must be of
type `aes256-gcm96`, for what is authenticated with an envelope goes into `associated_data`. Versions of the key are
Vault's own business: `vault:v3:…` says which.
"""

import base64
import http.client
import json
import os
import re
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cloister.base.errors import PreconditionError
from cloister.trust.keys.providers.file import open_private
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, ProviderUnavailableError

_TIMEOUT_S: Final = 5.0
_TOKEN_BYTES_MAX: Final = 4096
_ANSWER_BYTES_MAX: Final = 65536
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class VaultProvider:
    name = "vault"
    is_remote = True

    def __init__(
        self, address: str, key: str, token_file: Path, *, mount: str = "transit", ca_file: Path | None = None
    ) -> None:
        """Asks nobody yet. The token is read anew for each call: who renews it writes the file. Raises
        PreconditionError."""
        parts = urlsplit(address)
        is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.hostname is None or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not is_local):
            raise PreconditionError(public=f"{address}: Vault is asked by https, or by http on this machine")
        if not _NAME.fullmatch(key) or not _NAME.fullmatch(mount):
            raise PreconditionError(public="names of Vault's key and mount are letters, digits, _ and -")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._token_file = token_file
        self._mount = mount
        self._key = key

    @property
    def root_version(self) -> str:
        return f"{self._mount}/{self._key}"

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        wrapped: str = self._call("encrypt", context, plaintext=_text(bytes(plaintext)))["ciphertext"]
        return wrapped.encode()

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        answer = self._call("decrypt", context, ciphertext=wrapped.decode("ascii", "replace"))
        plaintext = base64.b64decode(answer["plaintext"])
        if len(plaintext) != len(buffer):
            raise KeyDamagedError(f"{context}: {len(plaintext)} bytes were wrapped")
        buffer[:] = plaintext

    def close(self) -> None:
        """No connection is kept."""

    def _call(self, what: str, context: Context, **fields: str) -> Any:
        body = json.dumps({**fields, "associated_data": _text(context.encode())})
        status, answer = self._post(f"/v1/{self._mount}/{what}/{self._key}", body)
        if status == 200 and isinstance(answer.get("data"), dict):
            return answer["data"]
        said = "; ".join(str(it) for it in answer.get("errors") or [])[:200]
        if status == 400 and what == "decrypt":
            raise KeyDamagedError(f"{context}: {said}")
        if status in (429, 472, 473) or status >= 500:  # sealed, standby, overloaded
            raise ProviderUnavailableError(f"{status}: {said}", public="Vault does not answer")
        raise PreconditionError(f"{self.root_version}: {status}: {said}", public=f"Vault refuses: {status}")

    def _post(self, path: str, body: str) -> tuple[int, dict[str, Any]]:
        descriptor = open_private(self._token_file)
        try:
            token = os.read(descriptor, _TOKEN_BYTES_MAX).decode().strip()
        finally:
            os.close(descriptor)
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=self._tls)
            if self._tls is not None
            else http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        )
        try:
            connection.request("POST", path, body, {"X-Vault-Token": token, "Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read(_ANSWER_BYTES_MAX) or b"{}")
        except ssl.SSLCertVerificationError as error:
            raise PreconditionError(str(error), public="Vault's certificate is not one of its CA") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProviderUnavailableError(repr(error), public="Vault does not answer") from error
        finally:
            connection.close()
        return response.status, answer if isinstance(answer, dict) else {}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
