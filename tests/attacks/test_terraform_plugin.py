"""Threat: another program of the same machine asks the provider that Terraform has started, and so acts with its API key; or it
sends what no Terraform would.
"""

import asyncio
import base64
import os
import ssl
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, StreamReset, TrailersReceived

from cloister.cli.failure import CommandError
from cloister.cli.terraform import plugin, rpc
from cloister.cli.terraform.command import answering
from cloister.cli.terraform.messages import CALLS
from cloister.cli.terraform.provider import Provider
from cloister.protocol.protobuf import decode

SCHEMA = "/tfplugin6.Provider/GetProviderSchema"


class Started:
    """A provider, and the certificate of the Terraform that started it."""

    def __init__(self, directory: Path, line: str) -> None:
        self._directory = directory
        self.socket = Path(line.split("|")[3])
        said = line.strip().split("|")[5]
        self._der = base64.b64decode(said + "=" * (-len(said) % 4))

    def tls(self, who: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self._der)
        context.set_alpn_protocols(["h2"])
        if who is not None:
            context.load_cert_chain(self._directory / who)
        return context

    async def ask(self, who: str | None, path: str, body: bytes) -> tuple[str, bytes]:
        """gRPC's status and the answer. Raises OSError where nobody answers."""
        reader, writer = await asyncio.open_unix_connection(self.socket, ssl=self.tls(who), server_hostname="localhost")
        http = H2Connection(H2Configuration())
        http.initiate_connection()
        heads = [
            (":method", "POST"),
            (":path", path),
            (":scheme", "https"),
            (":authority", "localhost"),
            ("te", "trailers"),
        ]
        http.send_headers(1, heads)
        answer = bytearray()
        try:
            while True:
                while body and (room := min(http.local_flow_control_window(1), http.max_outbound_frame_size)) > 0:
                    part, body = body[:room], body[room:]
                    http.send_data(1, part)
                    if not body:
                        http.end_stream(1)
                writer.write(http.data_to_send())
                if not (data := await reader.read(65_536)):
                    raise ConnectionResetError
                status = ""
                for event in http.receive_data(data):
                    match event:
                        case DataReceived(data=bytes(more), flow_controlled_length=int(length)):
                            answer += more
                            http.acknowledge_received_data(length, 1)
                        case TrailersReceived(headers=headers):
                            status = dict(headers or [])[b"grpc-status"].decode()
                        case StreamReset():
                            return "reset", b""
                        case StreamEnded():
                            return status, bytes(answer)
                        case _:
                            pass
        finally:
            writer.close()


@pytest.fixture
async def started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Started]:
    for who in ("terraform", "somebody"):
        key, certificate, _ = plugin.own_certificate()
        (tmp_path / who).write_bytes(key + certificate)
    theirs = certificate_of(tmp_path / "terraform")
    environment = {
        plugin.COOKIE_VARIABLE: plugin.COOKIE, plugin.VERSIONS_VARIABLE: "5,6", plugin.CERTIFICATE_VARIABLE: theirs,
    }  # fmt: skip

    workers = ThreadPoolExecutor(1)
    serving = asyncio.create_task(plugin.serve(environment, answering(Provider({}), workers)))
    line = ""
    while not line:
        assert not serving.done()
        await asyncio.sleep(0.01)
        line = capsys.readouterr().out
    yield Started(tmp_path, line)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    workers.shutdown()


def certificate_of(file: Path) -> str:
    text = file.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


async def test_terraform_is_answered(started: Started) -> None:
    """More than a window holds, in one piece."""
    status, answer = await started.ask("terraform", SCHEMA, rpc.framed(b""))
    assert status == "0"
    said = decode(CALLS["GetProviderSchema"][1], rpc.unframed(answer))
    assert {each["key"] for each in said["resource_schemas"]} >= {"cloister_project", "cloister_branch"}


@pytest.mark.parametrize("who", [None, "somebody"])
async def test_nobody_else_is(started: Started, who: str | None) -> None:
    with pytest.raises(OSError):
        await started.ask(who, SCHEMA, rpc.framed(b""))


async def test_the_socket_is_ours_alone_and_no_key_lies_beside_it(started: Started) -> None:
    assert stat.S_IMODE(started.socket.parent.stat().st_mode) == 0o700
    assert started.socket.parent.stat().st_uid == os.getuid()
    assert [each.name for each in started.socket.parent.iterdir()] == ["socket"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tfplugin6.Provider/Nothing", rpc.framed(b""), "12"),
        ("/plugin.GRPCBroker/StartStream", rpc.framed(b""), "12"),
        (SCHEMA, b"\1" + rpc.framed(b"")[1:], "12"),
        (SCHEMA, b"\0\0\0", "3"),
        (SCHEMA, rpc.framed(b"") + rpc.framed(b""), "3"),
        (SCHEMA, rpc.framed(bytes(rpc.MESSAGE_BYTES_MAX + 1)), "reset"),
    ],
)
async def test_what_no_terraform_sends_is_refused_and_the_next_is_answered(
    started: Started, path: str, body: bytes, status: str
) -> None:
    assert (await started.ask("terraform", path, body))[0] == status
    assert (await started.ask("terraform", SCHEMA, rpc.framed(b"")))[0] == "0"


@pytest.mark.parametrize("missing", [plugin.COOKIE_VARIABLE, plugin.VERSIONS_VARIABLE, plugin.CERTIFICATE_VARIABLE])
def test_it_serves_nobody_who_does_not_say_who_they_are(missing: str) -> None:
    environment = {
        plugin.COOKIE_VARIABLE: plugin.COOKIE, plugin.VERSIONS_VARIABLE: "6", plugin.CERTIFICATE_VARIABLE: "PEM",
    }  # fmt: skip
    assert plugin.require_terraform(environment) == "PEM"
    with pytest.raises(CommandError):
        plugin.require_terraform({name: value for name, value in environment.items() if name != missing})
