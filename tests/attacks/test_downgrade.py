"""Talking the two ends down to something weaker: old TLS, no TLS, no channel binding, a password in clear."""

import asyncio
import ssl
from pathlib import Path

import pytest

from cloister.protocol.pgwire.messages import startup_message
from tests.fix_gateway import DOMAIN, ENDPOINT, PASSWORD, GatewayWorld, write_certificate
from tests.raw_client import RawClient


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
