"""A platform's front door as clients expect it that know no port but 443 and 5432, and no API but Neon's own address.

A platform under test listens on ports of its own. Here is an address of its own on the loopback interface, where port
443 and 5432 lead to them, and a second one that is `console.neon.tech` to whoever trusts its certificate. Programs see
both through a private hosts file, in a mount namespace of their own; nothing on the machine is touched.
"""

import asyncio
import contextlib
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.instance import Instance

CONSOLE = "console.neon.tech"

_PATIENCE_S = 30


class Front:
    """Use as a context manager: listening inside, closed and gone afterwards."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        # Addresses of its own, as its port is: several platforms under test may run on one machine.
        own = f"{instance.https_port >> 8}.{instance.https_port & 255}"
        self._address, self._console_address = f"127.43.{own}", f"127.44.{own}"
        self._directory = tempfile.TemporaryDirectory(prefix="front-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front")
        self._servers: list[asyncio.Server] = []
        self._relays: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()
        self._directory.cleanup()

    @property
    def ca_file(self) -> Path:
        """The platform's authorities, and the one that vouches for the console."""
        return Path(self._directory.name) / "ca.pem"

    def seen_by(self, words: Iterable[str | Path], *hosts: str) -> list[str | Path]:
        """The command, as one that finds these hosts, `api.DOMAIN` and the console here."""
        api = f"api.{self._instance.domain}"
        file = Path(self._directory.name) / f"hosts-{len(list(Path(self._directory.name).iterdir()))}"
        file.write_text(
            f"127.0.0.1 localhost\n{self._address} {' '.join((api, *hosts))}\n{self._console_address} {CONSOLE}\n"
        )
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', file, *words]

    async def _listen(self) -> None:
        directory = Path(self._directory.name)
        _make_certificate(directory)
        self.ca_file.write_bytes(self._instance.paths.ca_file.read_bytes() + (directory / "console.pem").read_bytes())
        console = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        console.load_cert_chain(directory / "console.pem", directory / "console.key")
        https, postgres = self._instance.https_port, self._instance.postgres_port
        trust = ssl.create_default_context(cafile=str(self._instance.paths.ca_file))
        self._servers = [
            await self._server(self._address, 443, https),
            await self._server(self._address, 5432, postgres),
            await self._server(self._console_address, 443, https, its_tls=console, our_tls=trust),
        ]

    async def _server(
        self,
        address: str,
        port: int,
        to: int,
        *,
        its_tls: ssl.SSLContext | None = None,
        our_tls: ssl.SSLContext | None = None,
    ) -> asyncio.Server:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._relays.add(task)
            try:
                name = "localhost" if our_tls else None
                far_reader, far_writer = await asyncio.open_connection(
                    "127.0.0.1", to, ssl=our_tls, server_hostname=name
                )
                async with _closing(writer), _closing(far_writer):
                    both = [
                        asyncio.create_task(_copy(reader, far_writer)),
                        asyncio.create_task(_copy(far_reader, writer)),
                    ]
                    try:
                        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for each in both:
                            each.cancel()
                        await asyncio.wait(both)
            finally:
                self._relays.discard(task)

        return await asyncio.start_server(relay, address, port, ssl=its_tls)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for relay in (relays := list(self._relays)):
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one of them ends, which ends the other: no client here half-closes."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


def _make_certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, CONSOLE)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CONSOLE)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "console.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "console.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
