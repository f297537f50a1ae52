"""How Terraform finds a provider and the two prove themselves to each other (HashiCorp's go-plugin).

    (1) only a program that knows the word is a Terraform: whoever types the command is told what it is for
    (2) a key and a certificate, for this process alone; the key is a file for as long as it takes to read it, in a directory
        that is ours alone
    (3) a socket in that directory. Whoever connects shows the certificate that Terraform made for this start and put into our
        environment: without it nobody is served
    (4) one line on standard output says where, and what to hold us to. From then on that is Terraform's: logs go to stderr
    (5) it ends when it is told to, or when Terraform is gone; what is being carried out then is finished first

Ctrl-C is Terraform's to understand: it reaches us as well, and is not heard.
"""

import asyncio
import base64
import contextlib
import signal
import ssl
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloister.cli.failure import CommandError
from cloister.cli.terraform.rpc import UNIMPLEMENTED, Answer, Connection, RefusedError

COOKIE_VARIABLE: Final = "TF_PLUGIN_MAGIC_COOKIE"
COOKIE: Final = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
# Terraform's, and no secret: it tells its own start from somebody's hand.
VERSIONS_VARIABLE: Final = "PLUGIN_PROTOCOL_VERSIONS"
CERTIFICATE_VARIABLE: Final = "PLUGIN_CLIENT_CERT"

HANDSHAKE_VERSION: Final = 1
PROTOCOL_VERSION: Final = 6

LIFETIME: Final = timedelta(days=30)
# Longer than any apply.
LONELY_S: Final = 5.0
# Nobody is connected any more, or nobody came: Terraform is gone.
COMING_S: Final = 60.0

_SHUTDOWN: Final = "/plugin.GRPCController/Shutdown"
_SERVICE: Final = "/tfplugin6.Provider/"


def require_terraform(environment: Mapping[str, str]) -> str:
    """(1) What Terraform's certificate is. Raises CommandError."""
    if environment.get(COOKIE_VARIABLE) != COOKIE:
        raise CommandError(
            "this is a provider for Terraform, which starts it: docs/terraform.md says how Terraform is told where it is"
        )
    if str(PROTOCOL_VERSION) not in environment.get(VERSIONS_VARIABLE, "").split(","):
        raise CommandError("this Terraform does not speak plugin protocol 6: 1.0 and newer ones do")
    certificate = environment.get(CERTIFICATE_VARIABLE, "")
    if not certificate:
        raise CommandError(
            "this Terraform shows no certificate, and nobody else is to be served: 1.0 and newer ones do"
        )
    return certificate


def own_certificate() -> tuple[bytes, bytes, bytes]:
    """(2) The key and the certificate in PEM, and the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, certificate.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.DER)


def tls(directory: Path, key: bytes, certificate: bytes, theirs: str) -> ssl.SSLContext:
    """(2), (3). Raises CommandError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=theirs)
    except (ssl.SSLError, ValueError) as error:
        raise CommandError(f"what {CERTIFICATE_VARIABLE} holds is no certificate") from error
    file = directory / "key"
    file.touch(mode=0o600)
    try:
        file.write_bytes(key + certificate)
        context.load_cert_chain(file)
    finally:
        file.unlink()
    return context


async def serve(environment: Mapping[str, str], answer: Answer) -> None:
    """To the end. `answer` is given the names of calls of the provider. Raises CommandError."""
    theirs = require_terraform(environment)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    key, certificate, der = own_certificate()
    over = asyncio.Event()
    connected: set[asyncio.Task[None]] = set()
    last_left = loop.time() + COMING_S - LONELY_S

    async def dispatch(path: str, message: bytes) -> bytes:
        if path == _SHUTDOWN:
            loop.call_later(0.05, over.set)  # it is told first
            return b""
        if not path.startswith(_SERVICE):
            raise RefusedError(UNIMPLEMENTED, f"{path} is not served")
        return await answer(path.removeprefix(_SERVICE), message)

    def left(task: asyncio.Task[None]) -> None:
        nonlocal last_left
        connected.discard(task)
        last_left = loop.time()

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(Connection(reader, writer, dispatch).run())
        connected.add(task)
        task.add_done_callback(left)

    with tempfile.TemporaryDirectory(prefix="tf-cloister-") as directory:
        path = Path(directory) / "socket"
        context = tls(Path(directory), key, certificate, theirs)
        server = await asyncio.start_unix_server(connect, path, ssl=context)
        try:
            print(handshake(path, der), flush=True)  # noqa: T201 - (4)
            while not over.is_set() and (connected or loop.time() - last_left < LONELY_S):  # (5)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LONELY_S / 2):
                        await over.wait()
        finally:
            server.close()
            for each in connected:
                each.cancel()
            await asyncio.gather(*connected, return_exceptions=True)


def handshake(path: Path, certificate: bytes) -> str:
    said = base64.b64encode(certificate).rstrip(b"=").decode()
    return f"{HANDSHAKE_VERSION}|{PROTOCOL_VERSION}|unix|{path}|grpc|{said}"
