"""The sentinel as the process that it is: killed and started again it misses nothing, and its heartbeat means something."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from cloister.app import sentinel
from cloister.app.children import command
from cloister.app.process import Process
from cloister.base.database import Database
from cloister.base.settings import LAYOUT_VERSION, Settings, save
from cloister.trust.audit import Action, Event
from cloister.trust.sentinel import delivery
from cloister.trust.sentinel.channels import Channel, Heartbeat, Webhook
from cloister.trust.sentinel.watch import Watch
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.trust.sentinel.receiver import make_certificate
from tests.trust.sentinel.test_delivery import SECRET, receiver
from tests.trust.sentinel.test_watch import RULES, append, failures, found

PATIENCE_S = 60.0
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture
def settings(control_database: ControlDatabase, tmp_path: Path) -> Settings:
    """Of a platform of which there is a control database and nothing else."""
    made = Settings(state_dir=str(tmp_path), database_url=control_database.url("cloister_sentinel"))
    for directory in (made.paths.alerts, made.paths.threats, made.paths.certificates):
        directory.mkdir()
    made.paths.layout_version.write_text(f"{LAYOUT_VERSION}\n")
    save(made)
    make_certificate(made.paths.certificates / "receiver.pem")
    return made


def tell(settings: Settings, port: int) -> None:
    """Both at one receiver: a webhook, and the dead man's switch."""
    trusted: dict[str, Any] = {"ca_file": str(settings.paths.certificates / "receiver.pem"), "private": True}
    channels: list[Channel] = [
        Webhook(name="hook", url=f"https://127.0.0.1:{port}/hook", secret=SECRET, **trusted),
        Heartbeat(name="beat", url=f"https://127.0.0.1:{port}/beat", every_s=10, **trusted),
    ]
    settings.paths.alert_channels.write_bytes(msgspec.json.encode(channels))


def calls(heard: list[bytes], path: str) -> int:
    return sum(each.startswith(f"POST /{path} ".encode()) for each in heard)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)


async def until_found(database: Database, rule: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while rule not in dict(await found(database)):  # noqa: ASYNC110 - another task does it
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """As the supervisor starts it."""
    process = await asyncio.create_subprocess_exec(*command("sentinel", settings), stderr=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_what_was_under_way_when_it_was_killed_is_found_and_told_by_the_next(
    settings: Settings, database_as: DatabaseAs
) -> None:
    """Six failed logins before, four after; each start beats, and SIGTERM ends it in good order."""
    database = await database_as("cloister_sentinel")

    async def looked_at() -> int:
        async with database.reading() as tx:
            seen: int = await tx.fetch_value("SELECT coalesce(max(beat_seq), -1) FROM sentinel")
            return seen

    async with receiver(settings.paths.certificates / "receiver.pem", TAKEN) as (port, heard, _):
        tell(settings, port)
        async with started(settings) as process:
            await until(lambda: calls(heard, "beat") == 1)
            await append(database_as, failures(6))
            async with asyncio.timeout(PATIENCE_S):
                while await looked_at() < 6:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
        await append(database_as, failures(4))
        assert await found(database) == []
        async with started(settings) as process:
            await until(lambda: calls(heard, "hook") == 1)
            await until(lambda: calls(heard, "beat") == 2)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    assert await found(database) == [("failed-logins", 1)]


async def test_the_dead_mans_switch_is_not_held_by_one_that_cannot_follow_the_log(
    settings: Settings, control_database: ControlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """It lives, tries again and again, and does not say that all is well; as soon as it can, it does."""
    owner = await asyncpg.connect(control_database.url())
    process = Process(settings, 0, {})
    try:
        await owner.execute("REVOKE SELECT ON cloister.audit_event FROM cloister_sentinel")
        async with receiver(settings.paths.certificates / "receiver.pem", TAKEN) as (port, heard, _):
            tell(settings, port)
            running = asyncio.create_task(sentinel.run(process))
            await until(lambda: caplog.text.count("the audit log cannot be followed") >= 3)
            assert heard == []
            await owner.execute("GRANT SELECT ON cloister.audit_event TO cloister_sentinel")
            await until(lambda: calls(heard, "beat") == 1)
            process.stop.set()
            await running
    finally:
        await owner.close()


async def test_a_channel_that_fails_is_a_finding(
    settings: Settings, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sends alerts says so to what finds: the process joins the two."""
    monkeypatch.setattr(delivery, "FAILURES_TOLD", 1)
    database, process = await database_as("cloister_sentinel"), Process(settings, 0, {})
    busy = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    async with receiver(settings.paths.certificates / "receiver.pem", busy) as (port, heard, _):
        tell(settings, port)
        running = asyncio.create_task(sentinel.run(process))
        await until(lambda: calls(heard, "beat") == 1)  # it follows the log; its first look begins at the log's end
        await append(database_as, failures(10))
        await until_found(database, "alerting-degraded")
        process.stop.set()
        await running
    assert calls(heard, "hook") >= 1
    assert sorted(await found(database)) == [("alerting-degraded", 1), ("failed-logins", 1)]


async def test_the_lists_and_the_certificate_are_looked_at_as_long_as_it_lives(
    settings: Settings, database_as: DatabaseAs
) -> None:
    """From the operator's file to the finding, and from the certificate that is served."""
    make_certificate(settings.paths.certificates / "chain.pem", days=13)
    (settings.paths.threats / "malicious").write_text("203.0.113.0/24 # of this morning\n")
    database, process = await database_as("cloister_sentinel"), Process(settings, 0, {})
    running = asyncio.create_task(sentinel.run(process))
    await until_found(database, "certificate-ends")
    await append(database_as, [Event(action=Action.CONNECTION_OPENED, actor="role:app", address="203.0.113.9")])
    await until_found(database, "listed-login")
    process.stop.set()
    await running
    assert sorted(await found(database)) == [("certificate-ends", 1), ("listed-login", 1)]


@pytest.mark.parametrize(("days", "rules"), [(13, ["certificate-ends"]), (15, [])])
async def test_a_certificate_that_ends_within_two_weeks_is_told_once(
    settings: Settings, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch, days: int, rules: list[str]
) -> None:
    database = await database_as("cloister_sentinel")
    watch = Watch(database, RULES)
    await watch.load()
    chain = settings.paths.certificates / "chain.pem"
    monkeypatch.setattr(sentinel, "LOOK_S", 0)
    looking = asyncio.create_task(sentinel._look_around(watch, settings.paths.threats, chain))
    await asyncio.sleep(0)
    make_certificate(chain, days=days)
    for _ in range(3):
        await asyncio.sleep(0)  # one look
    looking.cancel()
    assert len(watch._observed) == len(rules)
    await watch.step()
    assert await found(database) == [(rule, 1) for rule in rules]


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        (b"203.0.113.9\n198.51.100.0/24 # a note\n\nnonsense\n# 192.0.2.1\n2001:db8::/32\n", 3),
        (b"203.0.113.9 # M\xfcnchen\n198.51.100.0/24\n\xff\xfe\n", 2),
        (b"", 0),
    ],
)
def test_a_threat_list_is_read_line_by_line(tmp_path: Path, text: bytes, networks: int) -> None:
    """What is no address is passed over; what is no list's name is no list. An encoding that is not ours ends no sentinel."""
    (tmp_path / "malicious").write_bytes(text)
    (tmp_path / "Malicious.bak").write_text("203.0.113.10")
    lists = sentinel.read_lists(tmp_path)
    assert {name: len(them) for name, them in lists.items()} == {"malicious": networks}
