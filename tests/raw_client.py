"""A Postgres client that does what it is told, also what no client does: for attacks and for looking at single messages."""

import asyncio
import contextlib
import ssl
import struct
from dataclasses import dataclass
from typing import Final

import scramp

from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import startup_message
from tests.fix_gateway import DOMAIN, ENDPOINT, PASSWORD, GatewayWorld

QUERY_DONE: Final = b"Z"


@dataclass
class RawClient:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, world: GatewayWorld, *, endpoint: str = ENDPOINT, source: str | None = None) -> "RawClient":
        """TLS is up; nothing was said inside it. `source`: an address of this machine, for somebody else."""
        context = world.client_tls()
        context.set_alpn_protocols(["postgresql"])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.port, ssl=context, server_hostname=f"{endpoint}.{DOMAIN}",
            local_addr=None if source is None else (source, 0),
        )  # fmt: skip
        return cls(reader, writer)

    @classmethod
    async def logged_in(cls, world: GatewayWorld, *, role: str = "ada", **parameters: str) -> "RawClient":
        client = await cls.open(world)
        client.send(startup_message({"user": role, "database": "app", **parameters}))
        assert await client.prove(PASSWORD), "not let in"
        await client.until(QUERY_DONE)
        return client

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def message(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack(">cI", await self.reader.readexactly(5))
        return kind, await self.reader.readexactly(length - 4)

    async def until(self, kind: bytes) -> list[tuple[bytes, bytes]]:
        """All messages up to one of this kind."""
        messages = [await self.message()]
        while messages[-1][0] != kind:
            messages.append(await self.message())
        return messages

    async def challenge(self, first: str, mechanism: str = "SCRAM-SHA-256") -> tuple[bytes, bytes]:
        """After the startup packet: the list of mechanisms is read, one is chosen; the answer to it."""
        kind, body = await self.message()
        if kind == b"E":
            return kind, body
        data = first.encode()
        self.send(message(b"p", mechanism.encode() + b"\0" + struct.pack(">I", len(data)) + data))
        return await self.message()

    async def prove(self, password: str) -> bool:
        client = scramp.ScramClient(["SCRAM-SHA-256"], "ada", password)
        kind, body = await self.challenge(client.get_client_first())
        assert kind == b"R", body
        client.set_server_first(body[4:].decode())
        self.send(message(b"p", client.get_client_final().encode()))
        kind, body = await self.message()
        if kind == b"E":
            return False
        client.set_server_final(body[4:].decode())
        return True

    async def ask(self, query: str) -> list[bytes]:
        """The first column of each row."""
        self.send(message(b"Q", query.encode() + b"\0"))
        messages = await self.until(QUERY_DONE)
        assert not [body for kind, body in messages if kind == b"E"], messages
        return [body[6 : 6 + int.from_bytes(body[2:6], "big")] for kind, body in messages if kind == b"D"]

    async def rest(self) -> bytes:
        """All that still comes, until the gateway closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except (ConnectionError, ssl.SSLError):
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


async def answer_in_clear(world: GatewayWorld, *segments: bytes) -> bytes:
    """Everything the gateway says to these segments without TLS."""
    reader, writer = await world.open_raw()
    for segment in segments:
        writer.write(segment)
        await writer.drain()
    async with asyncio.timeout(10):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    return answer
