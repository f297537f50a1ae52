"""An HTTPS server on the loopback interface that answers as a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloister.base.ipallow import AllowList
from cloister.trust.fetching import Fetcher, Reach
from tests.fix_gateway import write_certificate

NAME = "issuer.db.localhost"
HERE = Reach(AllowList.parse(["127.0.0.1"]))


def answer(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    said = {"content-length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    return "".join([f"HTTP/1.1 {status}\r\n", *(f"{n}: {v}\r\n" for n, v in said.items()), "\r\n"]).encode() + body


@dataclass
class Issuer:
    authority: str
    port: int = 0
    says: bytes = field(default_factory=answer)
    """All that it answers; b"" for nothing, ever."""
    is_hanging_up: bool = True
    asked: list[bytes] = field(default_factory=list)
    resolved: list[tuple[str, int]] = field(default_factory=list)
    addresses: list[list[str]] = field(default_factory=lambda: [["127.0.0.1"]])
    """What the resolver says at each question; the last one again and again."""

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}/jwks.json?v=1"

    def fetcher(self, reach: Reach = HERE, *, timeout_s: float = 10.0, authority: str | None = "its own") -> Fetcher:
        authority = self.authority if authority == "its own" else authority
        return Fetcher(reach, authority=authority, resolve=self._resolve, timeout_s=timeout_s)

    async def _resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append((host, port))
        return self.addresses[min(len(self.resolved), len(self.addresses)) - 1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.says)
            if self.says and self.is_hanging_up:
                await writer.drain()
            else:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def an_issuer(directory: Path) -> AsyncIterator[Issuer]:
    write_certificate(directory)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    issuer = Issuer((directory / "chain.pem").read_text())
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0, ssl=tls)
    issuer.port = server.sockets[0].getsockname()[1]
    try:
        yield issuer
    finally:
        server.close()
