"""The watchman's round: what stands open, what a log holds and who serves the certificate is told, once."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pytest

from cloister.app import certificates, layout, repairs, watchman
from cloister.app.flows import USERS, strange_listeners
from cloister.app.watchman import LogPlace, Told, read_on
from cloister.base.database import embedded
from cloister.base.errors import UnavailableError
from cloister.base.identities import COMPUTE_UID_FIRST, Service, uid_of
from cloister.base.rpc import Peer
from cloister.base.rpc.wire import LENGTH, frame
from cloister.base.secret import new_api_key
from cloister.base.settings import Settings
from cloister.trust.audit.reader import events
from cloister.trust.certificates import authority, files
from tests.app.test_repairs import WAITING
from tests.audited import raised
from tests.fix_database import ControlDatabase, DatabaseAs

NOW: Final = 1_800_000_000.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0
KEY: Final = new_api_key().reveal()
CLONE_NEWNET: Final = 0x40000000


def test_a_log_is_read_on_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    path.write_bytes(b"one\ntwo\nthr")
    first = read_on(path, None)
    assert (first.text, first.at) == (b"one\ntwo\n", 0)
    with path.open("ab") as file:
        file.write(b"ee\n")
    second = read_on(path, first.place)
    assert (second.text, second.at) == (b"three\n", 8)
    assert read_on(path, second.place).text == b""


@pytest.mark.parametrize("how", ["another file", "cut"])
def test_a_log_that_begins_anew_is_read_from_its_beginning(how: str, tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    path.write_bytes(b"a long line of before\n")
    before = read_on(path, None).place
    if how == "another file":
        path.rename(tmp_path / "api.log.1")
    path.write_bytes(b"new\n")
    assert read_on(path, before).text == b"new\n"


def test_a_line_longer_than_a_round_is_passed_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchman, "LOG_BYTES_MAX", 8)
    path = tmp_path / "api.log"
    path.write_bytes(b"0123456789abcdef\nend\n")
    place, read = None, b""
    for _ in range(4):
        found = read_on(path, place)
        place, read = found.place, read + found.text
    assert read == path.read_bytes()


def test_what_cannot_be_read_was_not_told(tmp_path: Path) -> None:
    """The worst that comes of a spoilt file is that things are told twice."""
    path = tmp_path / "watchman.json"
    assert watchman.told(path) == Told()
    path.write_bytes(b"{")
    assert watchman.told(path) == Told()
    told = Told(["x"], {"api.log": LogPlace(1, 2)}, "c")
    path.write_bytes(msgspec.json.encode(told))
    assert watchman.told(path) == told


@pytest.fixture(autouse=True)
def _no_repair_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits on the machine that tests."""
    monkeypatch.setattr(repairs, "policies", lambda: "")


@pytest.fixture
def settings(control_database: ControlDatabase) -> Iterator[Settings]:
    """A platform's files, with their owners and modes, and none of its processes."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        made = Settings(state_dir=f"{directory}/state", domain="db.localhost", database_url=control_database.url())
        layout.prepare(made)
        asyncio.run(certificates.run(made))
        made.paths.admin_key.write_text(KEY)
        made.paths.admin_key.chmod(0o600)
        yield made
        shutil.rmtree(made.paths.run)


@pytest.mark.root
def test_a_platform_as_it_was_made_has_nothing_to_tell(settings: Settings) -> None:
    (settings.paths.logs / "api.log").write_text("2026 INFO ready\n")
    told, after = watchman.look(settings, Told(), NOW)
    assert told == []
    assert watchman.look(settings, after, NOW) == ([], after)


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "mode", "seen"),
    [
        ("root_key", 0o644, "gateway can read root_key"),
        ("admin_key", 0o644, "anybody can read admin_key"),
        ("keys_run", 0o777, "gateway can write keys_run"),
        ("volumes", 0o755, "anybody can enter volumes"),
        ("certificates", 0o777, "api can write certificates"),
    ],
)
def test_what_was_opened_is_told_once_and_so_is_its_end(name: str, mode: int, seen: str, settings: Settings) -> None:
    path: Path = getattr(settings.paths, name)
    usual = path.stat().st_mode
    path.chmod(mode)
    told, after = watchman.look(settings, Told(), NOW)
    assert seen in [each.reason for each in told]
    assert raised(told) == {"flow-open"}
    assert watchman.look(settings, after, NOW) == ([], after)
    path.chmod(usual)
    told, after = watchman.look(settings, after, NOW)
    assert seen in [each.reason for each in told]
    assert {each.action for each in told} == {"flow.closed"}
    assert raised(told) == set()
    assert after.open == []


@contextlib.contextmanager
def a_server(path: Path, *, answers: bool) -> Iterator[list[int]]:
    """In the place of a service of ours: answers whoever calls, or hangs up. Who called, by uid."""
    callers: list[int] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        callers.append(Peer.of(connection).uid)
                        if answers:
                            connection.recv(LENGTH.size)
                            connection.sendall(frame(b""))

        thread = threading.Thread(target=serve)
        thread.start()
        yield callers
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink()


@pytest.mark.root
def test_a_socket_that_answers_everybody_is_told_and_so_is_its_end(settings: Settings) -> None:
    """Found within the hour, and from then on every minute; until then nobody of ours is asked in vain."""
    agent = settings.paths.agent_socket
    told, after = watchman.look(settings, Told(), NOW)
    assert told == []
    with a_server(agent, answers=True) as callers:
        told, after = watchman.look(settings, after, NOW + 60)
        assert (told, callers) == ([], [])
        told, after = watchman.look(settings, after, NOW + HOUR)
        assert [each.reason for each in told] == sorted(
            f"{user} can call agent_socket" for user in USERS if user != "api"
        )
        assert raised(told) == {"flow-open"}
        assert uid_of(Service.API) not in callers
        assert watchman.look(settings, after, NOW + HOUR + 60)[0] == []
    with a_server(agent, answers=False):
        told, after = watchman.look(settings, after, NOW + HOUR + 120)
    assert {each.action for each in told} == {"flow.closed"}
    assert after.open == []


@pytest.mark.root
def test_a_compute_that_listens_is_found_in_a_network_namespace_of_its_own() -> None:
    """As the kernel tells it, to a process in the namespace where the compute listens."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0  # Python has os.unshare from 3.12 on
            os.setresuid(COMPUTE_UID_FIRST + 7, COMPUTE_UID_FIRST + 7, 0)
            with socket.socket() as listening:
                listening.bind(("0.0.0.0", 5432))
                listening.listen()
                found = strange_listeners(Path("/proc/net/tcp").read_text(), set())
                os.write(writing, "\n".join(each.seen for each in found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == f"uid {COMPUTE_UID_FIRST + 7} listens on 0.0.0.0:5432"
    os.waitpid(pid, 0)


@pytest.mark.root
def test_other_rules_of_who_may_log_in_are_found(settings: Settings) -> None:
    """Where the control database is the platform's own."""
    own = msgspec.structs.replace(settings, database_url=None)
    for name, text in embedded.login_rules().items():
        (own.paths.control_data / name).write_text(text)
    assert watchman.look(own, Told(), NOW)[0] == []
    with (own.paths.control_data / "pg_hba.conf").open("a") as file:
        file.write("local all all trust\n")
    told, _ = watchman.look(own, Told(), NOW)
    assert [each.reason for each in told] == ["the control database's pg_hba.conf is not what its start wrote"]
    assert raised(told) == {"flow-open"}


@pytest.mark.root
async def test_a_secret_in_a_log_becomes_an_event_that_does_not_repeat_it(
    settings: Settings, database_as: DatabaseAs
) -> None:
    """The whole way: as the supervisor has it run, to the log that the sentinel reads."""
    log_file = settings.paths.logs / "api.log"
    log_file.write_text("2026 INFO ready\n")
    await watchman.run(settings)
    with log_file.open("a") as file:
        file.write(f"2026 DEBUG Authorization: Bearer {KEY}\n")
    for _ in range(2):
        await watchman.run(settings)
    async with (await database_as("cloister_api")).reading() as tx:
        (told,) = await events(tx, limit=10)
    assert (told.event.action, told.event.resource, told.event.reason) == ("log.secret", "api.log", "an API key")
    assert told.event.details == {"offset": 16 + len("2026 DEBUG Authorization: Bearer "), "count": 1}
    assert KEY not in repr(told.event)
    assert raised([told.event]) == {"secret-in-log"}
    assert settings.paths.watchman.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
async def test_what_could_not_be_told_is_told_by_the_next_round(
    settings: Settings, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.paths.root_key.chmod(0o644)
    away = msgspec.structs.replace(settings, database_url="postgresql://cloister@/cloister?host=/nowhere")
    with monkeypatch.context() as patched:
        patched.setattr(watchman, "TELL_PATIENCE_S", 0.2)
        with pytest.raises((TimeoutError, UnavailableError)):
            await watchman.run(away)
    assert not settings.paths.watchman.exists()
    await watchman.run(settings)
    async with (await database_as("cloister_api")).reading() as tx:
        assert "keys can read root_key" not in [each.event.reason for each in await events(tx, limit=10)]
        assert "gateway can read root_key" in [each.event.reason for each in await events(tx, limit=10)]


@pytest.mark.root
def test_a_certificate_that_nobody_issued_is_told_once(settings: Settings) -> None:
    """One of somebody else's authority, for the same names, with its key: every front door takes it."""
    now = datetime.now(UTC)
    strange = authority.new_leaf(
        authority.new_intermediate(authority.new_root(settings.domain, now), now), settings.domain, now
    )
    files.serve(settings.paths, authority.pem(strange.certificate), authority.key_pem(strange.key))
    told, after = watchman.look(settings, Told(), NOW)
    assert [each.action for each in told] == ["certificate.strange"]
    assert raised(told) == {"certificate-strange"}
    assert watchman.look(settings, after, NOW)[0] == []
    asyncio.run(certificates.run(settings))
    assert watchman.look(settings, after, NOW) == ([], msgspec.structs.replace(after, certificate=""))


@pytest.mark.root
def test_a_repair_that_waits_too_long_is_told_once_and_so_is_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many days as the settings say, from the first round that saw it."""
    allowed = msgspec.structs.replace(settings, repair_days=3)
    monkeypatch.setattr(repairs, "policies", lambda: WAITING)
    told, after = watchman.look(allowed, Told(), NOW)
    assert told == []
    for day in (1, 2, 3):
        told, after = watchman.look(allowed, after, NOW + day * DAY)
        assert told == []
    told, after = watchman.look(allowed, after, NOW + 4.5 * DAY)
    assert [(each.action, each.resource, each.details["days"]) for each in told] == [("repair.overdue", "libssl3", 4)]
    assert raised(told) == {"repair-overdue"}
    told, after = watchman.look(allowed, after, NOW + 6 * DAY)
    assert told == []
    monkeypatch.setattr(repairs, "policies", lambda: "")
    told, after = watchman.look(allowed, after, NOW + 8 * DAY)
    assert [(each.action, each.resource) for each in told] == [("repair.done", "libssl3")]
    assert raised(told) == set()
    assert after.repairs.waiting == {}
