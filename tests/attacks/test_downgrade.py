"""Talking the two ends down to something weaker: old TLS, no TLS, no channel binding, a password in clear."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from wsproto.events import BytesMessage

from cloister.base.directory import Invalidate
from cloister.base.identities import service_of_uid
from cloister.edge.api import server
from cloister.edge.api.tls import ServerCertificate
from cloister.edge.gateway import certificates
from cloister.protocol.pgwire.messages import startup_message
from tests.edge.api.serving import answer_of, ends, request
from tests.edge.api.world import World
from tests.fix_gateway import DOMAIN, ENDPOINT, PASSWORD, GatewayWorld, write_certificate
from tests.raw_client import RawClient
from tests.sql_client import FramedClient, SqlClient, connection_string, first_words
from tests.token_issuer import key_set, token


@pytest.mark.filterwarnings("ignore:.*TLSv1.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_tls_is_refused(gateway_world: GatewayWorld, version: ssl.TLSVersion) -> None:
    await gateway_world.start()
    context = gateway_world.client_tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["postgresql"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", gateway_world.port, ssl=context, server_hostname=f"{ENDPOINT}.{DOMAIN}"
        )


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"])
async def test_suites_without_forward_secrecy_or_aead_are_refused(gateway_world: GatewayWorld, ciphers: str) -> None:
    await gateway_world.start()
    context = gateway_world.client_tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", gateway_world.port, ssl=context, server_hostname=f"{ENDPOINT}.{DOMAIN}"
        )


QUERY = b'{"query": "SELECT 1 AS n"}'
IN_CLEAR = {
    "the API": request(),
    "HTTP/1.0": b"GET /api/v2/cloister/health HTTP/1.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SQL": request("/sql", f"Neon-Connection-String: {connection_string()}", f"Content-Length: {len(QUERY)}",
                   method="POST", body=QUERY),
}  # fmt: skip


@pytest.mark.parametrize("said", IN_CLEAR.values(), ids=IN_CLEAR)
async def test_nobody_speaks_http_in_clear_on_the_https_port(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """What is no TLS goes to the API's process, as in a platform, and hears nothing there but that it is no TLS."""
    monkeypatch.setattr(server, "GIVERS", frozenset({service_of_uid(os.geteuid())}))
    await gateway_world.start(https=True)
    async with _api_behind(gateway_world):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", gateway_world.https_port, ssl=gateway_world.client_tls(), server_hostname=DOMAIN
        )
        writer.write(request())
        assert (await answer_of(reader))[0] == 200, "it is there"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway_world.https_port)
        writer.write(said)
        heard = await ends(reader)
        assert heard[:1] in (b"", b"\x15"), "the end, or an alert of TLS"
        assert b"HTTP/" not in heard
        writer.close()
    assert gateway_world.directory.asked == []


@contextlib.asynccontextmanager
async def _api_behind(world: GatewayWorld) -> AsyncIterator[None]:
    """The API's server, which gets its connections from the gateway."""
    certificate = ServerCertificate(world.ca_file, world.ca_file.with_name("key.pem"))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(World().app, [], certificate, stop, handed_over=world.api_socket))
        try:
            yield
        finally:
            stop.set()


async def test_nothing_weaker_than_scram_is_offered(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    client = await RawClient.open(gateway_world)
    client.send(startup_message({"user": "ada"}))
    assert await client.message() == (b"R", b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    await client.close()


async def test_a_client_that_was_not_shown_channel_binding_is_refused(gateway_world: GatewayWorld) -> None:
    """Somebody between took PLUS out of the list: the client says so with flag `y`."""
    await gateway_world.start()
    client = await RawClient.open(gateway_world)
    client.send(startup_message({"user": "ada"}))
    kind, body = await client.challenge("y,,n=,r=abcdefgh")
    assert kind == b"E"
    assert b"C28P01\0" in body
    await client.close()
    (denied,) = await gateway_world.directory.until("connection.denied")
    assert denied.reason == "bad_password"


async def test_a_proxy_that_holds_a_trusted_certificate_fails_against_channel_binding(
    gateway_world: GatewayWorld, tmp_path: Path
) -> None:
    """The man in the middle ends TLS with a certificate that the client trusts. Without channel binding that works;
    with it, the proof is bound to the wrong certificate."""
    await gateway_world.start()
    write_certificate(tmp_path, common_name="the man in the middle")
    both = tmp_path / "trusted.pem"
    both.write_bytes(gateway_world.ca_file.read_bytes() + (tmp_path / "chain.pem").read_bytes())
    async with await _man_in_the_middle(gateway_world, tmp_path) as server:
        port = server.sockets[0].getsockname()[1]
        through = {"port": port, "sslrootcert": both}
        assert await gateway_world.psql("-c", "SELECT 1", channel_binding="disable", **through) == (0, "1")
        code, told = await gateway_world.psql("-c", "SELECT 1", channel_binding="require", **through)
        assert code != 0
        assert "password authentication failed" in told


async def _man_in_the_middle(world: GatewayWorld, certificates: Path) -> asyncio.Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "chain.pem", certificates / "key.pem")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(8):
            return
        writer.write(b"S")
        await writer.start_tls(context)
        gateway = await RawClient.open(world)
        await asyncio.wait(
            [asyncio.create_task(_copy(reader, gateway.writer)), asyncio.create_task(_copy(gateway.reader, writer))]
        )

    return await asyncio.start_server(relay, "127.0.0.1", 0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def test_a_password_in_clear_is_never_asked_for_where_the_endpoint_is_known(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    told = await gateway_world.refusal(password=f"endpoint={ENDPOINT};{PASSWORD}")
    assert "password authentication failed" in told


REQUIRED = "This project requires channel binding."


async def test_whoever_does_without_channel_binding_where_it_is_required_is_refused(
    gateway_world: GatewayWorld,
) -> None:
    """The right password does not help. What a client is offered is nothing else; one that takes something else all the
    same is told what to do, before it has proved anything."""
    gateway_world.directory.is_binding_required = True
    await gateway_world.start()
    await (await gateway_world.connect()).close()
    await (await gateway_world.connect(channel_binding="prefer")).close()
    await (await gateway_world.connect(endpoint=f"{ENDPOINT}-pooler")).close()
    assert "SASL authentication mechanisms" in await gateway_world.refusal(channel_binding="disable")
    for flag in ("n", "y"):
        client = await RawClient.open(gateway_world)
        client.send(startup_message({"user": "ada"}))
        kind, body = await client.challenge(f"{flag},,n=,r=abcdefgh")
        assert kind == b"E"
        assert b"C28000\0" in body
        assert REQUIRED.encode() in body
        assert b"channel_binding=require" in body
        await client.close()
    denied = await gateway_world.directory.until("connection.denied", 2)
    assert {event.reason for event in denied} == {"binding_required"}


async def test_no_way_without_channel_binding_leads_around_the_switch(gateway_world: GatewayWorld) -> None:
    """Where a password or a token is only sent through TLS: over HTTPS, in a WebSocket, and with the endpoint's name in the
    password."""
    gateway_world.directory.is_binding_required = True
    gateway_world.directory.key_sets[ENDPOINT] = [key_set("ada")]
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as client:
        answer = await client.query("SELECT 1")
        assert (answer.status, answer.json["code"]) == (400, "28000")
        assert REQUIRED in answer.json["message"]
    async with await SqlClient.open(gateway_world, name="apiauth") as client:
        without = connection_string(password="")
        answer = await client.query("SELECT 1", to=without, Authorization=f"Bearer {token()}")
        assert REQUIRED in answer.json["message"]
    async with await FramedClient.open(gateway_world) as framed:
        framed.send(BytesMessage(first_words()))
        assert REQUIRED.encode() in await framed.payload_until(REQUIRED.encode())
    named = await gateway_world.refusal(
        password=f"endpoint={ENDPOINT};{PASSWORD}", sslsni=0, channel_binding="disable", sslmode="verify-ca"
    )
    assert REQUIRED in named
    assert not [event for event in gateway_world.directory.events if event.action == "connection.opened"]


async def test_a_switch_that_comes_while_somebody_asks_over_https_holds_from_the_next_request(
    gateway_world: GatewayWorld,
) -> None:
    """However many came before on the same connection."""
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as client:
        assert (await client.query("SELECT 1")).status == 200
        gateway_world.directory.is_binding_required = True
        gateway_world.directory.send(Invalidate(endpoint_id=ENDPOINT))
        async with asyncio.timeout(10):
            while (answer := await client.query("SELECT 1")).status == 200:
                pass
        assert REQUIRED in answer.json["message"]


async def test_where_the_certificate_can_bind_nothing_a_project_that_requires_it_is_closed(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's with Ed25519, say, for which the hash is not defined."""
    monkeypatch.setattr(certificates, "end_point_binding", lambda _: None)
    gateway_world.directory.is_binding_required = True
    await gateway_world.start()
    assert REQUIRED in await gateway_world.refusal(channel_binding="prefer")
