"""The audit log on its way out: every event, in order, at least once with one id, whoever dies; and only to whom it was meant."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from cloister.base.errors import BadRequestError
from cloister.trust.audit import Action, Event, forwarder, record, targets
from cloister.trust.audit.forwarder import BATCH_ROWS, FAILURES_TOLD, RETRY_MAX_S, Forwarder, pause, progress
from cloister.trust.audit.targets import Syslog, Target, Webhook
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.trust.sentinel.receiver import make_certificate

SECRET = "s" * 64
EVENT = Event(action=Action.PROJECT_GET, actor="user:u")
LINE = re.compile(
    rb'<(\d+)>1 (\S+) (\S+) cloister - (\S+) \[cloister@32473 uid="([0-9a-f]{64})" seq="(\d+)"\] (.*)', re.DOTALL
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receiver") / "both.pem"
    make_certificate(path)
    return path


class Receiver:
    """Takes webhooks and syslog over TLS. `answer` is the webhook's; `dies_after` bytes of syslog it resets the connection."""

    def __init__(self, certificate: Path) -> None:
        self._certificate = certificate
        self.port = 0
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.streams: list[bytes] = []
        self.dies_after: int | None = None
        self.closes_tls = True

    @contextlib.asynccontextmanager
    async def open(self, serve: Any) -> AsyncIterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        server = await asyncio.start_server(serve, "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def webhook(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        writer.write(self.answer)
        writer.close()

    async def syslog(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.dies_after is not None:
            await reader.readexactly(self.dies_after)
            writer.transport.abort()
            return
        self.streams.append(await reader.read())
        writer.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for each in self.bodies for event in json.loads(each)["events"]]


def frames(stream: bytes) -> list[bytes]:
    """As RFC 5425 has them."""
    found = []
    while stream:
        length, _, rest = stream.partition(b" ")
        found.append(rest[: int(length)])
        stream = rest[int(length) :]
    return found


def webhook(receiver: Receiver, certificate: Path, **changes: Any) -> Webhook:
    given: dict[str, Any] = {
        "name": "hook",
        "after": 0,
        "url": f"https://127.0.0.1:{receiver.port}/in",
        "secret": SECRET,
    }
    return Webhook(**(given | {"ca_file": str(certificate), "private": True} | changes))


def syslog(receiver: Receiver, certificate: Path, **changes: Any) -> Syslog:
    given: dict[str, Any] = {"name": "lines", "after": 0, "host": "127.0.0.1", "port": receiver.port}
    return Syslog(**(given | {"ca_file": str(certificate), "private": True} | changes))


class World:
    """A log, a receiver, and a forwarder that can be killed."""

    def __init__(self, database_as: DatabaseAs, path: Path, receiver: Receiver) -> None:
        self._database_as = database_as
        self._path = path
        self.receiver = receiver
        self.told: list[tuple[str, str]] = []

    async def append(self, count: int, event: Event = EVENT) -> None:
        async with (await self._database_as("cloister_api")).transaction() as tx:
            await record(tx, *[event] * count)

    async def begin(self, *wanted: Target) -> Forwarder:
        self._path.write_bytes(msgspec.json.encode(wanted))
        database = await self._database_as("cloister_sentinel")
        return Forwarder(
            database, self._path, origin="here", observe=lambda name, error: self.told.append((name, error))
        )

    async def at(self, target: Target) -> forwarder.Progress:
        async with (await self._database_as("cloister_sentinel")).reading() as tx:
            return (await progress(tx, [target]))[0]


@pytest.fixture
def world(database_as: DatabaseAs, tmp_path: Path, certificate: Path) -> World:
    return World(database_as, tmp_path / "exports.json", Receiver(certificate))


def sequence(events: list[dict[str, Any]]) -> list[int]:
    return [event["metadata"]["sequence"] for event in events]


async def test_a_batch_is_signed_as_the_documents_say(world: World, certificate: Path) -> None:
    receiver = world.receiver
    await world.append(3)
    async with receiver.open(receiver.webhook):
        await (await world.begin(webhook(receiver, certificate))).step()
    assert sequence(receiver.events) == [1, 2, 3]
    fields = dict(line.split(": ", 1) for line in receiver.heads[0].decode().strip().split("\r\n")[1:])
    signed = {name.lower(): value for name, value in fields.items()}["cloister-signature"]
    at, digest = (part.partition("=")[2] for part in signed.split(","))
    assert digest == hmac.new(SECRET.encode(), f"{at}.".encode() + receiver.bodies[0], hashlib.sha256).hexdigest()


async def test_a_receiver_that_was_away_gets_all_it_missed_in_order(world: World, certificate: Path) -> None:
    """In bounded batches; and how it fails is shown until then."""
    receiver = world.receiver
    async with receiver.open(receiver.webhook):
        target = webhook(receiver, certificate)
        await world.append(2)
        await (await world.begin(target)).step()
    await world.append(BATCH_ROWS + 50)
    for _ in range(FAILURES_TOLD):  # each is a new process: what is known lies in the database
        await (await world.begin(target)).step()
    failing = await world.at(target)
    assert (failing.seq, failing.behind, failing.failures) == (2, BATCH_ROWS + 50, FAILURES_TOLD)
    assert failing.state.startswith("export.failed since ")
    assert world.told == [("hook", failing.error)]
    async with receiver.open(receiver.webhook):
        await (await world.begin(target)).step()
    assert sequence(receiver.events) == list(range(1, BATCH_ROWS + 53))
    assert max(len(json.loads(each)["events"]) for each in receiver.bodies) == BATCH_ROWS
    assert (await world.at(target)).state == "ok"


async def test_who_dies_before_the_position_is_kept_sends_again_with_the_same_ids(
    world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = world.receiver
    await world.append(3)
    sent = forwarder.attempt

    async def attempt_and_die(*given: Any, **named: Any) -> str:
        await sent(*given, **named)
        raise asyncio.CancelledError

    async with receiver.open(receiver.webhook):
        target = webhook(receiver, certificate)
        with monkeypatch.context() as patch:
            patch.setattr(forwarder, "attempt", attempt_and_die)
            with pytest.raises(asyncio.CancelledError):
                await (await world.begin(target)).step()
        await (await world.begin(target)).step()
    assert sequence(receiver.events) == [1, 2, 3, 1, 2, 3]
    ids = [event["metadata"]["uid"] for event in receiver.events]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3


async def test_what_is_refused_is_not_taken(world: World, certificate: Path) -> None:
    """Only 2xx moves the position, and nothing overtakes what was refused."""
    receiver = world.receiver
    receiver.answer = b"HTTP/1.1 503 Later\r\n\r\n"
    await world.append(BATCH_ROWS + 1)
    async with receiver.open(receiver.webhook):
        target = webhook(receiver, certificate)
        await (await world.begin(target)).step()
        assert (await world.at(target)).seq == 0
        assert len(receiver.bodies) == 1
        receiver.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        await (await world.begin(target)).step()
    assert (await world.at(target)).seq == BATCH_ROWS + 1


async def test_a_target_that_is_away_delays_no_other(world: World, certificate: Path) -> None:
    receiver = world.receiver
    await world.append(1)
    async with receiver.open(receiver.webhook):
        away = Webhook(name="away", after=0, url="https://127.0.0.1:1/", secret=SECRET, private=True)
        await (await world.begin(away, webhook(receiver, certificate))).step()
    assert sequence(receiver.events) == [1]


async def test_syslog_lines_are_framed_numbered_and_whole(world: World, certificate: Path) -> None:
    """Also where the text of a stranger would like to be a line of its own."""
    receiver = world.receiver
    await world.append(1)
    async with receiver.open(receiver.syslog):
        target = syslog(receiver, certificate)
        await (await world.begin(target)).step()
    (said,) = frames(receiver.streams[0])
    matched = LINE.fullmatch(said)
    assert matched is not None
    assert matched[1] == b"110"
    assert matched[4] == b"project.get"
    event = json.loads(matched[7])
    assert (event["metadata"]["uid"], event["metadata"]["sequence"]) == (matched[5].decode(), int(matched[6]))
    assert (await world.at(target)).seq == 1
    forged = event | {"raw_data": "x\n<1>1 - - - - - -"}
    forged["metadata"] = event["metadata"] | {"original_time": "- evil\n"}
    forged["unmapped"] = {"action": "a b\nc"}
    line = forwarder.line(forged, host="h")
    assert b"\n" not in line
    assert line.split(b" ")[1:7] == [b"<110>1", b"-?evil?", b"h", b"cloister", b"-", b"a?b?c"]


async def test_lines_that_the_receiver_did_not_read_are_sent_again(world: World, certificate: Path) -> None:
    """Syslog has no answer; but who dies with lines unread resets the connection, and that is seen."""
    receiver = world.receiver
    await world.append(BATCH_ROWS)
    receiver.dies_after = 100
    async with receiver.open(receiver.syslog):
        target = syslog(receiver, certificate)
        await (await world.begin(target)).step()
        assert (await world.at(target)).seq == 0
        receiver.dies_after = None
        await (await world.begin(target)).step()
    assert (await world.at(target)).seq == BATCH_ROWS
    assert [int(LINE.fullmatch(each)[6]) for each in frames(receiver.streams[0])] == list(range(1, BATCH_ROWS + 1))  # type: ignore[index]


async def test_an_unknown_certificate_gets_nothing(world: World, certificate: Path) -> None:
    receiver = world.receiver
    await world.append(1)
    for serve, target_of in ((receiver.webhook, webhook), (receiver.syslog, syslog)):
        async with receiver.open(serve):
            target = target_of(receiver, certificate, ca_file="")
            await (await world.begin(target)).step()
        assert "certificate" in (await world.at(target)).error.lower()
    assert receiver.heads == []
    assert not any(receiver.streams)


async def test_a_name_that_leads_home_is_refused(world: World, certificate: Path) -> None:
    """A target is public unless root said otherwise; the address is looked at, at every call."""
    receiver = world.receiver
    await world.append(1)
    async with receiver.open(receiver.webhook):
        target = webhook(receiver, certificate, private=False)
        await (await world.begin(target)).step()
    assert "may not call" in (await world.at(target)).error
    assert receiver.heads == []


async def test_a_log_that_was_rolled_back_goes_on_from_where_it_ends(
    world: World, certificate: Path, control_database: ControlDatabase
) -> None:
    """Its next events are new ones: other ids under numbers that were sent before."""
    receiver = world.receiver
    await world.append(3)
    async with receiver.open(receiver.webhook):
        target = webhook(receiver, certificate)
        await (await world.begin(target)).step()
        connection = await asyncpg.connect(control_database.url())
        await connection.execute("SET search_path = cloister; ALTER TABLE audit_event DISABLE TRIGGER USER")
        await connection.execute("DELETE FROM audit_event WHERE seq > 1")
        await connection.execute("UPDATE audit_head SET seq = 1, hash = (SELECT hash FROM audit_event WHERE seq = 1)")
        await connection.close()
        await (await world.begin(target)).step()
        await world.append(2)
        await (await world.begin(target)).step()
    assert sequence(receiver.events) == [1, 2, 3, 2, 3]
    assert len({event["metadata"]["uid"] for event in receiver.events}) == 5


async def test_the_position_is_the_sentinels_alone(database_as: DatabaseAs) -> None:
    """The API cannot move it past events that nobody is to see."""
    with pytest.raises(Exception, match="permission denied"):
        async with (await database_as("cloister_api")).transaction() as tx:
            await tx.execute("UPDATE audit_export SET seq = 1000")


def test_pauses_grow_and_end() -> None:
    assert [pause(each) for each in (0, 1, 2, 8, 10**6)] == [1, 2, 4, 256, RETRY_MAX_S]


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://u:p@a.example/", "https://a.example/#x", "file:///etc/passwd"]
)
def test_a_target_is_https_and_nothing_clever(url: str) -> None:
    with pytest.raises(BadRequestError):
        targets.checked([Webhook(name="x", after=0, url=url, secret=SECRET)])
