"""What HTTP/2 gives an attacker: frames that cost us more than them, and a connection that says more than one name."""

import asyncio
import contextlib
import logging
import socket

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.edge.sql import limits
from tests.fix_gateway import DOMAIN, ENDPOINT, OTHER_ENDPOINT, PASSWORD, GatewayWorld
from tests.http2_client import Http2Client
from tests.sql_client import SqlClient, connection_string

ENHANCE_YOUR_CALM = int(ErrorCodes.ENHANCE_YOUR_CALM)


@pytest.fixture
async def sql_world(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> GatewayWorld:
    monkeypatch.setattr(limits, "LINGER_S", 0.1)
    await gateway_world.start(https=True)
    return gateway_world


async def query(world: GatewayWorld) -> None:
    """Others are served all the while."""
    async with await SqlClient.open(world) as sql:
        assert (await sql.query("SELECT 1 AS n")).status == 200


# ── frames that ask for nothing ──


async def test_rapid_reset(sql_world: GatewayWorld) -> None:
    """CVE-2023-44487: a request and its end, over and over."""
    async with await Http2Client.open(sql_world) as client:
        for _ in range(5 * limits.PATIENCE // limits.PATIENCE_OF_A_RESET):
            stream = client.ask("SELECT pg_sleep(60)")
            client.http.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
        assert await client.ends()
        assert client.farewell == ENHANCE_YOUR_CALM
    wakes = len(sql_world.directory.wakes)
    assert wakes <= 2 * limits.PATIENCE // limits.PATIENCE_OF_A_RESET
    await query(sql_world)


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, b"12345678"),
        SettingsFrame(0, settings={SettingCodes.HEADER_TABLE_SIZE: 4096}),
        WindowUpdateFrame(0, window_increment=1),
        PriorityFrame(1, depends_on=0, stream_weight=3),
        DataFrame(1, b""),
    ],
    ids=lambda frame: type(frame).__name__,
)
async def test_a_flood_of_frames_that_ask_for_nothing(sql_world: GatewayWorld, frame: Frame) -> None:
    async with await Http2Client.open(sql_world) as client:
        client.begin(ends=False)
        client.writer.write(frame.serialize() * (limits.PATIENCE + 100))
        assert await client.ends()
        assert client.farewell == ENHANCE_YOUR_CALM
    await query(sql_world)


async def test_patience_lasts_for_whoever_reads_its_answers(sql_world: GatewayWorld) -> None:
    """The control: more than the patience in cancelled queries, every second one read."""
    async with await Http2Client.open(sql_world) as client:
        for _ in range(3 * limits.PATIENCE // limits.PATIENCE_OF_A_RESET // 2):
            cancelled = client.ask("SELECT pg_sleep(60)")
            client.http.reset_stream(cancelled, ErrorCodes.CANCEL)
            assert (await client.answer(client.ask("SELECT 1 AS n"))).status == 200


async def test_a_head_in_endless_pieces(sql_world: GatewayWorld) -> None:
    """CONTINUATION without an end."""
    async with await Http2Client.open(sql_world) as client:
        client.writer.write(HeadersFrame(1, b"\x82").serialize())
        with_nothing = ContinuationFrame(1, b"").serialize()
        client.writer.write(with_nothing * 10_000)
        assert await client.ends()
    await query(sql_world)


async def test_a_head_that_unpacks_to_megabytes(sql_world: GatewayWorld) -> None:
    """A long header once, and then a byte for each time it is said again."""
    async with await Http2Client.open(sql_world) as client:
        stream = client.http.get_next_available_stream_id()
        headers = [*client.headers(), *[("x-bomb", "b" * 3_000)] * 2_000]
        client.http.send_headers(stream, headers, end_stream=True)
        assert len(client.http.data_to_send()) < 20_000
        client.http.clear_outbound_data_buffer()
        async with await Http2Client.open(sql_world) as other:
            other.http.send_headers(1, [*other.headers(), *[("x-bomb", "b" * 3_000)] * 2_000], end_stream=True)
            other.flush()
            assert await other.ends()
    await query(sql_world)


async def test_a_head_beyond_the_limit(sql_world: GatewayWorld) -> None:
    async with await Http2Client.open(sql_world) as client:
        client.begin(x_long="x" * limits.HEAD_BYTES_MAX)
        assert await client.ends()


async def test_more_streams_than_are_allowed(sql_world: GatewayWorld) -> None:
    async with await Http2Client.open(sql_world) as client:
        await client.answer(client.ask("SELECT 1"))
        client.http.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 10_000
        client.http.remote_settings.acknowledge()
        for _ in range(limits.STREAMS_MAX + 1):
            client.ask("SELECT pg_sleep(60)")
        assert await client.ends()
    await query(sql_world)


async def test_more_is_not_asked_of_a_compute_at_the_same_time_than_one_connection_may(
    sql_world: GatewayWorld,
) -> None:
    async with await Http2Client.open(sql_world) as client, await SqlClient.open(sql_world) as sql:
        for _ in range(2 * limits.ASKING_MAX):
            client.ask("SELECT pg_sleep(60 + 5)")
        sleepers = "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60 ' || '+ 5)%'"
        seen = 0
        async with asyncio.timeout(20):
            while seen < limits.ASKING_MAX:
                seen = (await sql.query(sleepers)).json["rows"][0]["n"]
        await asyncio.gather(*(query(sql_world) for _ in range(5)))
        assert (await sql.query(sleepers)).json["rows"][0]["n"] == limits.ASKING_MAX


async def test_a_client_that_does_not_read_is_not_read_from(
    sql_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have us keep an answer to every ping. Its own line is full first; then its time is over."""
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(limits, "PATIENCE", 10**9)
    async with await Http2Client.open(sql_world) as client:
        # Little room on its side of the line: to fill what a kernel would grow it to takes half a million pings.
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        pings = PingFrame(0, b"12345678").serialize() * 10_000
        async with asyncio.timeout(120):
            while not client.writer.transport.is_closing():
                client.writer.write(pings)
                with contextlib.suppress(ConnectionError):
                    await client.writer.drain()
    await query(sql_world)


async def test_an_answer_that_is_never_let_through(sql_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of nothing, and a megabyte of ours that waits for it."""
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.3)
    async with await Http2Client.open(sql_world, window=0) as client:
        stream = client.ask("SELECT repeat('x', 1000000) AS t")
        assert await client.until_reset(stream) == int(ErrorCodes.CANCEL)
        assert await client.ends()


async def test_a_body_that_never_ends(sql_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.3)
    async with await Http2Client.open(sql_world) as client:
        stream = client.begin(body=b'{"query": "', ends=False)
        assert await client.until_reset(stream) == int(ErrorCodes.CANCEL)
        assert await client.ends()


async def test_a_body_beyond_the_limit(sql_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES_MAX", 10_000)
    async with await Http2Client.open(sql_world) as client:
        stream = client.begin(body=b"x" * 10_001, ends=False)
        assert (await client.answer(stream)).status == 413
        assert await client.ends()


async def test_the_bodies_of_strangers_are_not_kept(sql_world: GatewayWorld) -> None:
    """What is sent before a password was seen to be right waits in the window of the connection, all streams together."""
    async with await Http2Client.open(sql_world) as client:
        sql_world.directory.may_wake.clear()
        sent = 0
        for _ in range(20):
            stream = client.begin(ends=False, neon_connection_string=connection_string(password="wrong"))
            room = client.http.local_flow_control_window(stream)
            while room:
                part = min(room, client.http.max_outbound_frame_size)
                client.http.send_data(stream, b"x" * part)
                sent, room = sent + part, room - part
        assert sent <= limits.WINDOW_BYTES
        client.flush()
        assert await client.ends()


async def test_nobody_proves_anything_for_ten_seconds(sql_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", 0.3)
    async with await Http2Client.open(sql_world) as client:
        assert await client.ends()
        assert client.farewell == 0


# ── who is who ──


async def test_a_connection_for_one_name_says_another(sql_world: GatewayWorld) -> None:
    """Coalescing: the certificate is good for both names, what was decided about one is not."""
    sql_world.directory.set_password("ada", "npg_of_the_other_12", OTHER_ENDPOINT)
    async with await Http2Client.open(sql_world, name=ENDPOINT) as client:
        assert (await client.answer(client.ask("SELECT 1"))).status == 200
        theirs = connection_string(password="npg_of_the_other_12", endpoint=OTHER_ENDPOINT)
        stream = client.ask("SELECT 1", authority=f"{OTHER_ENDPOINT}.{DOMAIN}", neon_connection_string=theirs)
        assert (await client.answer(stream)).status == 421
        assert await client.ends()


async def test_an_endpoint_named_beside_the_host(sql_world: GatewayWorld) -> None:
    sql_world.directory.set_password("ada", "npg_of_the_other_12", OTHER_ENDPOINT)
    async with await Http2Client.open(sql_world, name=ENDPOINT) as client:
        theirs = connection_string(password="npg_of_the_other_12", endpoint=OTHER_ENDPOINT)
        assert (await client.answer(client.ask("SELECT 1", neon_connection_string=theirs))).status == 400


@pytest.mark.parametrize(
    "more",
    [
        {"host": f"other.{DOMAIN}"},
        {"connection": "close"},
        {"upgrade": "websocket"},
        {"transfer_encoding": "chunked"},
        {"te": "gzip"},
        {"content_length": "5"},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_what_smugglers_need_is_no_request(sql_world: GatewayWorld, more: dict[str, str]) -> None:
    async with await Http2Client.open(sql_world) as client:
        stream = client.ask("SELECT 1 AS n", **more)
        assert await client.ends()
        assert stream not in client.answers
    assert not sql_world.directory.events


async def test_two_authorities(sql_world: GatewayWorld) -> None:
    async with await Http2Client.open(sql_world) as client:
        headers = [*client.headers()[:4], (":authority", f"other.{DOMAIN}"), *client.headers()[4:]]
        client.http.send_headers(1, headers, end_stream=True)
        client.flush()
        assert await client.ends()
        assert not client.answers


@pytest.mark.parametrize("more", [{"scheme": "http"}, {"path": "/v2"}, {"method": "GET"}, {"method": "CONNECT"}])
async def test_what_is_not_asked_of_us(sql_world: GatewayWorld, more: dict[str, str]) -> None:
    async with await Http2Client.open(sql_world) as client:
        stream = client.ask("SELECT 1", **more)
        assert await client.ends()
        assert stream not in client.answers or client.answers[stream].status in (400, 405)


async def test_a_right_password_opens_nothing_to_a_wrong_one_beside_it(sql_world: GatewayWorld) -> None:
    async with await Http2Client.open(sql_world) as client:
        right = client.ask("SELECT 1 AS n")
        assert (await client.answer(right)).status == 200
        wrong = client.ask("SELECT 1 AS n", neon_connection_string=connection_string(password="wrong"))
        answer = await client.answer(wrong)
        assert answer.status == 400
        assert answer.json["code"] == "28P01"
        assert await client.ends()


async def test_passwords_are_guessed_one_after_the_other(sql_world: GatewayWorld) -> None:
    """And the first that is wrong is the last one of its connection."""
    async with await Http2Client.open(sql_world) as client:
        streams = [
            client.ask("SELECT 1", neon_connection_string=connection_string(password=f"guess-{number}"))
            for number in range(50)
        ]
        assert await client.ends()
        assert {client.answers[stream].status for stream in streams if stream in client.answers} <= {400, 429}
    failures = [event for event in sql_world.directory.events if event.action == "connection.denied"]
    assert failures


async def test_an_address_that_is_not_allowed_any_more(sql_world: GatewayWorld) -> None:
    async with await Http2Client.open(sql_world) as client:
        assert (await client.answer(client.ask("SELECT 1"))).status == 200
        sql_world.directory.allowed_ips = ["192.0.2.1"]
        async with asyncio.timeout(20):
            while (await client.answer(client.ask("SELECT 1"))).status == 200:
                pass
        assert await client.ends()


async def test_headers_are_in_no_log(sql_world: GatewayWorld, caplog: pytest.LogCaptureFixture) -> None:
    """The library that packs them would tell each, at its lowest level."""
    caplog.set_level(0)
    logging.getLogger("cloister").debug("begins")
    async with await Http2Client.open(sql_world) as client:
        assert (await client.answer(client.ask("SELECT 1"))).status == 200
    assert caplog.text
    assert PASSWORD not in caplog.text


# ── anything at all ──

_FRAMES = st.one_of(
    st.builds(DataFrame, st.just(1), st.binary(max_size=50), flags=st.sampled_from([(), ("END_STREAM",)])),
    st.builds(HeadersFrame, st.integers(1, 9), st.binary(max_size=50),
              flags=st.sampled_from([("END_HEADERS",), ("END_HEADERS", "END_STREAM"), ()])),
    st.builds(ContinuationFrame, st.integers(1, 9), st.binary(max_size=50)),
    st.builds(RstStreamFrame, st.integers(1, 9), error_code=st.integers(0, 20)),
    st.builds(PingFrame, st.just(0), st.binary(min_size=8, max_size=8)),
    st.builds(WindowUpdateFrame, st.integers(0, 9), window_increment=st.integers(1, 2**31 - 1)),
    st.builds(GoAwayFrame, st.just(0), last_stream_id=st.integers(0, 9), error_code=st.integers(0, 20)),
    st.builds(SettingsFrame, st.just(0),
              settings=st.dictionaries(st.integers(1, 8), st.integers(0, 2**31 - 1), max_size=4)),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(_FRAMES, max_size=12), junk=st.binary(max_size=40))
async def test_any_frames_at_all(
    sql_world: GatewayWorld, caplog: pytest.LogCaptureFixture, frames: list[Frame], junk: bytes
) -> None:
    """Nothing is an error of ours, and the next client is served."""
    async with await Http2Client.open(sql_world) as client:
        client.ask("SELECT 1")
        client.writer.write(b"".join(frame.serialize() for frame in frames) + junk)
        with contextlib.suppress(OSError, TimeoutError):  # ssl.SSLError is one of the former
            async with asyncio.timeout(0.1):
                while await client.reader.read(65_536):
                    pass
    await query(sql_world)
    assert not [record for record in caplog.records if record.levelname == "ERROR" and "cloister" in record.name]
