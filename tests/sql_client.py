"""A client of `POST /sql` that does what it is told, also what no driver does."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

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
