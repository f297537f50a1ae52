"""A client of `POST /sql` over HTTP/2 whose frames can be made one by one, also such as no client makes."""

import asyncio
import json
import ssl
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from tests.fix_gateway import DOMAIN, GatewayWorld
from tests.sql_client import Answer, connection_string


@dataclass
class Http2Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str
    http: H2Connection
    answers: dict[int, Answer] = field(default_factory=dict)
    bodies: defaultdict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    reset: dict[int, int] = field(default_factory=dict)
    """Streams that the server gave up, with its reasons."""
    ended: set[int] = field(default_factory=set)
    farewell: int | None = None
    """Why the server wants no more."""
    acknowledges: bool = True
    """Bodies that came may go on."""

    @classmethod
    async def open(cls, world: GatewayWorld, *, name: str = "api", window: int | None = None) -> Self:
        context = world.client_tls()
        context.set_alpn_protocols(["h2"])
        host = f"{name}.{DOMAIN}"
        reader, writer = await asyncio.open_connection("127.0.0.1", world.https_port, ssl=context, server_hostname=host)
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        http = _Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        if window is not None:
            http.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        http.initiate_connection()
        client = cls(reader, writer, host, http)
        client.flush()
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def flush(self) -> None:
        self.writer.write(self.http.data_to_send())

    def headers(self, *, method: str = "POST", path: str = "/sql", **more: str) -> list[tuple[str, str]]:
        """`more` with underscores for hyphens; `authority` and `scheme` are the pseudo-headers."""
        authority, scheme = more.pop("authority", self.name), more.pop("scheme", "https")
        pseudo = [(":method", method), (":path", path), (":authority", authority), (":scheme", scheme)]
        said = {"neon_connection_string": connection_string()} | more
        return [*pseudo, *((name.lower().replace("_", "-"), value) for name, value in said.items())]

    def begin(self, *, body: bytes | None = None, ends: bool = True, **more: str) -> int:
        """A request; its stream."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, self.headers(**more), end_stream=body is None and ends)
        if body is not None:
            self.http.send_data(stream, body, end_stream=ends)
        self.flush()
        return stream

    def ask(self, query: str, *params: Any, **more: str) -> int:
        return self.begin(body=json.dumps({"query": query, "params": params}).encode(), ends=True, **more)

    async def answer(self, stream: int) -> Answer:
        async with asyncio.timeout(20):
            while stream not in self.ended:
                assert stream not in self.reset, f"reset with {self.reset[stream]}"
                assert await self.hear(), "the server closed"
        answer = self.answers[stream]
        answer.body = bytes(self.bodies[stream])
        return answer

    async def until_reset(self, stream: int) -> int:
        async with asyncio.timeout(20):
            while stream not in self.reset:
                assert await self.hear(), "the server closed"
        return self.reset[stream]

    async def ends(self) -> bool:
        """The server closes."""
        async with asyncio.timeout(20):
            while await self.hear():
                pass
        return True

    async def hear(self) -> bool:
        """False at the end."""
        try:
            data = await self.reader.read(65_536)
        except ConnectionError:
            return False
        if not data:
            return False
        for event in self.http.receive_data(data):
            match event:
                case events.ResponseReceived(stream_id=int(stream)):
                    headers = {str(name): str(value) for name, value in event.headers or []}
                    self.answers[stream] = Answer(int(headers[":status"]), headers, b"")
                case events.DataReceived(stream_id=int(stream)):
                    self.bodies[stream] += event.data or b""
                    if self.acknowledges:
                        self.http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                case events.StreamEnded(stream_id=int(stream)):
                    self.ended.add(stream)
                case events.StreamReset(stream_id=int(stream)):
                    self.reset[stream] = int(event.error_code or 0)
                case events.ConnectionTerminated():
                    self.farewell = int(event.error_code or 0)
        self.flush()
        return True


class _Connection(H2Connection):
    """To h2 a GOAWAY is the end, and answers are still to come."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[events.Event]]:
        event = events.ConnectionTerminated()
        event.error_code = ErrorCodes(frame.error_code)
        return [], [event]
