"""Clients of `POST /sql` and of the WebSocket that do what they are told, also what no driver does."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from urllib.parse import quote

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event

from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import startup_message
from tests.fix_gateway import DOMAIN, ENDPOINT, PASSWORD, GatewayWorld


def connection_string(
    *, role: str = "ada", password: str = PASSWORD, endpoint: str = ENDPOINT, database: str = "app", more: str = ""
) -> str:
    return f"postgresql://{quote(role)}:{quote(password)}@{endpoint}.{DOMAIN}/{database}{more}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class SqlClient:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str

    @classmethod
    async def open(cls, world: GatewayWorld, *, name: str = "api") -> "SqlClient":
        host = f"{name}.{DOMAIN}"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.https_port, ssl=world.client_tls(), server_hostname=host
        )
        return cls(reader, writer, host)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def head(self, length: int | None, headers: dict[str, str], *, method: str = "POST", path: str = "/sql") -> bytes:
        said = {"Host": self.name} | ({} if length is None else {"Content-Length": str(length)}) | headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items()), "", ""]
        return "\r\n".join(lines).encode()

    async def ask(self, body: Any, *, to: str | None = None, **headers: str) -> Answer:
        """`headers` with underscores for hyphens."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        said = {"Neon-Connection-String": connection_string() if to is None else to}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.writer.write(self.head(len(text), said) + text)
        return await self.answer()

    async def query(self, query: str, *params: Any, **options: Any) -> Answer:
        return await self.ask({"query": query, "params": list(params)}, **options)

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def ends(self) -> bool:
        """The server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        except ConnectionError:
            return True


@dataclass
class FramedClient:
    """A WebSocket whose frames are made one by one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: Connection

    HANDSHAKE: ClassVar = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    @classmethod
    async def open(cls, world: GatewayWorld, *, name: str = ENDPOINT, early: bytes = b"", **headers: str) -> Self:
        http = await SqlClient.open(world, name=name)
        said = cls.HANDSHAKE | {header.replace("_", "-"): value for header, value in headers.items()}
        http.writer.write(http.head(None, said, method="GET", path="/v2") + early)
        answer = (await http.reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101 "), answer
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer  # RFC 6455's own example
        return cls(http.reader, http.writer, Connection(ConnectionType.CLIENT))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, *events: Event) -> None:
        self.writer.write(b"".join(self.frames.send(event) for event in events))

    async def receive(self) -> list[Event]:
        """Events of the next bytes that come; empty at the end."""
        async with asyncio.timeout(10):
            data = await self.reader.read(65_536)
        if not data:
            return []
        self.frames.receive_data(data)
        return list(self.frames.events())

    async def payload_until(self, mark: bytes) -> bytes:
        """What the frames carry, up to this mark."""
        payload = b""
        while mark not in payload:
            events = await self.receive()
            assert events, payload
            payload += b"".join(event.data for event in events if isinstance(event, BytesMessage))
        return payload

    async def close_code(self) -> int | None:
        """Of the server's goodbye; None if it left without."""
        while events := await self.receive():
            for event in events:
                if isinstance(event, CloseConnection):
                    return event.code
        return None


def first_words(password: str = PASSWORD, query: str = "SELECT 42", role: str = "ada") -> bytes:
    """What the driver's first frame has: startup, password and query."""
    return (
        startup_message({"user": role, "database": "app"})
        + message(b"p", password.encode() + b"\0")
        + message(b"Q", query.encode() + b"\0")
    )
