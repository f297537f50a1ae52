"""A server of somebody else's on the loopback, with a certificate of an authority of its own."""

import asyncio
import ssl
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cloister.trust.certificates import authority

NAME = "db.far.example"
LOOPBACK = (ip_network("127.0.0.0/8"),)


class Far:
    """A server of somebody else's, which answers SSLRequest as it is told to."""

    def __init__(self, directory: Path) -> None:
        now = datetime.now(UTC)
        root = authority.new_root("far.example", now)
        intermediate = authority.new_intermediate(root, now)
        leaf = authority.new_leaf(intermediate, "far.example", now)
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(authority.pem(leaf.certificate, intermediate.certificate))
        key.write_bytes(authority.key_pem(leaf.key))
        self.ca_pem = authority.pem(root.certificate).decode()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain, key)
        self.answer = b"S"
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readexactly(8))
        writer.write(self.answer)
        try:
            if self.answer[:1] == b"S":
                await writer.start_tls(self.context)
                writer.write(b"over TLS: " + await reader.readexactly(5))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def always(*addresses: str) -> Any:
    """A resolver with one answer."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return list(addresses)

    return resolve
