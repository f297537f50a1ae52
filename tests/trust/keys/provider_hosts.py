"""Where root keys lie that are not ours: a token of SoftHSM, moto for AWS KMS, and a small Vault. Each can go away."""

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import boto3
import pkcs11
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto.server import ThreadedMotoServer

from cloister.trust.keys.providers.aws import AwsProvider
from cloister.trust.keys.providers.pkcs11 import Pkcs11Provider
from cloister.trust.keys.providers.vault import VaultProvider

LIBRARY: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = "1234"
TOKEN: Final = "s.example-token"


@dataclass
class Away:
    """Whether the provider's host answers."""

    is_away: bool = False


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def hsm(directory: Path, *labels: str, extractable: bool = False) -> None:
    """A token with AES-256 keys of these labels. SoftHSM reads its configuration once a process: all tokens lie together."""
    serial = os.environ.get("SOFTHSM2_CONF")
    if serial is None:
        tokens = directory / "tokens"
        tokens.mkdir()
        configuration = private(directory / "softhsm2.conf", f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(configuration)
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "cloister", "--so-pin", "12345678", "--pin", PIN],
            check=True, capture_output=True,
        )  # fmt: skip
    token = pkcs11.lib(str(LIBRARY)).get_token(token_label="cloister")
    with token.open(user_pin=PIN, rw=True) as session:
        for label in labels:
            template = {pkcs11.Attribute.SENSITIVE: not extractable, pkcs11.Attribute.EXTRACTABLE: extractable}
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True, template=template)


def hsm_provider(directory: Path, label: str) -> Pkcs11Provider:
    return Pkcs11Provider(LIBRARY, "cloister", label, private(directory / "pin", PIN + "\n"))


@contextmanager
def aws(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AwsProvider, ThreadedMotoServer, str]]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        credentials = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n"
        path = private(directory / "credentials", credentials)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
        client = boto3.client("kms", region_name="eu-central-1", endpoint_url=url)
        arn = client.create_key()["KeyMetadata"]["Arn"]
        yield AwsProvider(arn, "eu-central-1", credentials_file=path, endpoint_url=url), server, arn
    finally:
        server.stop()


class FakeVault(ThreadingHTTPServer):
    """Transit's encrypt and decrypt, as the API's description has them. `status` answers everything with that."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Transit)
        self.keys: dict[str, bytes] = {}
        self.status = 200
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Transit(BaseHTTPRequestHandler):
    server: FakeVault

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self._answer(body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.server.status != 200:
            return self.server.status, {"errors": ["Vault is sealed"]}
        if self.headers["X-Vault-Token"] != TOKEN:
            return 403, {"errors": ["permission denied"]}
        _, _version, mount, what, key = self.path.split("/")
        self.server.asked.append(what)
        assert mount == "transit"
        cipher = AESGCM(self.server.keys.setdefault(key, os.urandom(32)))
        aad = base64.b64decode(body["associated_data"])
        if what == "encrypt":
            nonce = os.urandom(12)
            sealed = nonce + cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), aad)
            return 200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(sealed).decode(), "key_version": 1}}
        try:
            prefix, version, text = body["ciphertext"].split(":")
            assert (prefix, version) == ("vault", "v1")
            sealed = base64.b64decode(text)
            plaintext = cipher.decrypt(sealed[:12], sealed[12:], aad)
        except (AssertionError, ValueError, InvalidTag):
            return 400, {"errors": ["invalid ciphertext"]}
        return 200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}}

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def vault(directory: Path) -> Iterator[tuple[VaultProvider, FakeVault]]:
    server = FakeVault()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield VaultProvider(server.address, "cloister", private(directory / "token", TOKEN + "\n")), server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
