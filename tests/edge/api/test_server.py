"""The server on a real socket: TLS, a new certificate without a dropped connection, a stop that finishes its work."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from cloister.base.errors import PreconditionError
from cloister.edge.api import server
from cloister.edge.api.tls import ServerCertificate
from tests.edge.api.serving import answer_of, client_context, ends, request, serving, write_certificate
from tests.edge.api.world import World


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return ServerCertificate(*write_certificate(tmp_path))


async def test_an_answer_over_verified_tls(certificate: ServerCertificate, tmp_path: Path) -> None:
    async with serving(certificate) as it, it.connect(client_context(tmp_path / "chain.pem")) as (reader, writer):
        writer.write(request())
        status, headers, body = await answer_of(reader)
        assert (status, body) == (200, b'{"version":"0.1.0","ready":true}')
        assert "server" not in headers
        assert headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"


async def test_tls_1_2_only_with_aead_and_nothing_older(certificate: ServerCertificate) -> None:
    async with serving(certificate) as it:
        async with it.connect(client_context(maximum=ssl.TLSVersion.TLSv1_2)) as (_, writer):
            name, version, _ = writer.get_extra_info("cipher")
            assert version == "TLSv1.2"
            assert "GCM" in name or "CHACHA20" in name
        weak = client_context(maximum=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with it.connect(weak):
                pass
        offered = [cipher for cipher in certificate.context.get_ciphers() if not cipher["aead"]]
        assert offered == []
        assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_new_certificate_is_shown_and_old_connections_live(tmp_path: Path) -> None:
    certificate = ServerCertificate(*write_certificate(tmp_path))
    async with serving(certificate) as it, it.connect() as (reader, writer):
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert certificate.reload_if_changed() is False
        write_certificate(tmp_path)
        assert certificate.reload_if_changed() is True
        async with it.connect(client_context(tmp_path / "chain.pem")) as (_, second):
            assert second.get_extra_info("ssl_object").getpeercert(binary_form=True) != before
        writer.write(request())
        assert (await answer_of(reader))[0] == 200


async def test_files_that_do_not_fit_leave_the_old_certificate(tmp_path: Path) -> None:
    chain, key = write_certificate(tmp_path)
    certificate = ServerCertificate(chain, key)
    old = chain.read_bytes()
    (tmp_path / "other").mkdir()
    other_chain, other_key = write_certificate(tmp_path / "other")
    chain.write_bytes(other_chain.read_bytes())  # and its key has not come yet
    assert certificate.reload_if_changed() is False
    async with serving(certificate) as it, it.connect() as (_, writer):
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert ssl.DER_cert_to_PEM_cert(shown).encode() == old
    key.write_bytes(other_key.read_bytes())
    assert certificate.reload_if_changed() is True
    chain.unlink()
    assert certificate.reload_if_changed() is False


async def test_a_new_certificate_is_noticed_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.edge.api.tls.CHECK_INTERVAL_S", 0.01)
    certificate = ServerCertificate(*write_certificate(tmp_path))
    taken_up = asyncio.Event()
    load = certificate.reload_if_changed

    def reload() -> bool:
        if load():
            taken_up.set()
        return True

    monkeypatch.setattr(certificate, "reload_if_changed", reload)
    async with serving(certificate):
        write_certificate(tmp_path)
        await asyncio.wait_for(taken_up.wait(), 5)


def test_no_certificate_no_server(tmp_path: Path) -> None:
    chain, key = write_certificate(tmp_path)
    key.write_text("nonsense")
    with pytest.raises(PreconditionError):
        ServerCertificate(chain, key)


async def test_a_stop_finishes_the_request_under_way(certificate: ServerCertificate) -> None:
    world = World()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> bool:
        asked.set()
        await go_on.wait()
        return True

    object.__setattr__(world.services, "is_ready", slow)
    async with serving(certificate, world) as it, it.connect() as (reader, writer):
        writer.write(request())
        await asked.wait()
        it.stop.set()
        asyncio.get_running_loop().call_later(0.3, go_on.set)
        assert (await answer_of(reader))[0] == 200
        assert await ends(reader) == b""
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", it.port)


async def test_an_answer_does_not_wait_for_an_acknowledgement(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head and the body of an answer are two writes: without TCP_NODELAY the second waits 40 ms for the client."""
    seen: list[int] = []
    made = server._PatientProtocol.connection_made

    def connection_made(self: server._PatientProtocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(server._PatientProtocol, "connection_made", connection_made)
    async with serving(certificate) as it, it.connect() as (reader, writer):
        writer.write(request())
        await answer_of(reader)
    assert seen == [1]


async def test_two_requests_in_one_packet_are_answered_in_order(certificate: ServerCertificate) -> None:
    async with serving(certificate) as it, it.connect() as (reader, writer):
        writer.write(request() + request("/api/v2/nothing"))
        assert [(await answer_of(reader))[0], (await answer_of(reader))[0]] == [200, 401]


async def test_a_megabyte_too_much_is_refused_and_the_client_learns_why(certificate: ServerCertificate) -> None:
    world = World()
    async with serving(certificate, world) as it, it.connect() as (reader, writer):
        size = 10 * 1024 * 1024
        head = request("/api/v2/projects", f"Content-Length: {size}", "Content-Type: application/json", method="POST")
        writer.write(head)
        for _ in range(10):
            writer.write(b" " * (size // 10))
        status, _, body = await answer_of(reader)
        assert status == 413
        assert b"larger than 1048576 bytes" in body
        await writer.drain()
        writer.write(request())  # the rest was thrown away: the connection goes on
        assert (await answer_of(reader))[0] == 200


async def test_refusals_reach_the_log_when_the_server_stops(certificate: ServerCertificate) -> None:
    async with serving(certificate) as it, it.connect() as (reader, writer):
        writer.write(request("/api/v2/projects"))
        assert (await answer_of(reader))[0] == 401
    assert [event.reason for event in it.world.audit.events] == ["unauthenticated"]


def test_the_limits_leave_room_for_each_other() -> None:
    assert server.HEAD_TIMEOUT_S < server.REQUEST_TIMEOUT_S
    assert server.CONNECTIONS_PER_ADDRESS_MAX < server.CONNECTIONS_MAX
