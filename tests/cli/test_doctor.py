"""The doctor's decisions, and that what cannot be looked at is never said to be well."""

import os
import socket
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.app.flows import Listener, listening
from cloister.base.errors import UnavailableError
from cloister.base.identities import Service
from cloister.base.settings import Settings, save
from cloister.cli.doctor import (
    backups,
    certificates,
    files,
    host,
    listeners,
    neighbours,
    processes,
    programs,
    records,
    volumes,
)
from cloister.cli.doctor.certificates import Served
from cloister.cli.doctor.checks import GROUPS, Group, examine, is_healthy, run
from cloister.cli.doctor.finding import Finding, Level, Subject, fail, ok, warning
from cloister.cli.doctor.processes import Running
from cloister.cli.doctor.volumes import Header
from cloister.node.backups.commands import StoreFacts
from cloister.node.sandbox.cores import Support

SUBJECT = Subject(Path("/nowhere"), None)


@pytest.mark.parametrize(
    "error", [UnavailableError(public="nobody answers"), OSError("no"), KeyError("x"), TimeoutError()]
)
def test_a_check_that_cannot_be_made_fails(error: Exception) -> None:
    def check(_subject: Subject) -> list[Finding]:
        raise error

    (finding,) = run(check, SUBJECT)
    assert finding.level is Level.FAIL
    assert "could not be checked" in finding.seen


def test_a_check_that_says_nothing_fails() -> None:
    (finding,) = run(lambda _subject: [], SUBJECT)
    assert finding.level is Level.FAIL


def test_every_check_fails_on_a_platform_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings without anything behind them: nothing about the platform is reported as well."""
    monkeypatch.setattr("cloister.base.database.owner.PATIENCE_S", 0.05)
    subject = Subject(tmp_path, Settings(state_dir=str(tmp_path)))
    of_the_platform = tuple(group for group in GROUPS if group.needs_platform)
    found = [finding for _, finding in examine(subject, of_the_platform)]
    assert len(found) >= sum(len(group.checks) for group in of_the_platform)
    # Whether the Unix users and their group exist and the domain resolves are facts of this host.
    assert {each.about for each in found if each.level is Level.OK} <= {"users", "group", "names"}


def test_strict_counts_warnings() -> None:
    found = [ok("a", "b"), warning("a", "b", "c")]
    assert is_healthy(found, strict=False)
    assert not is_healthy(found, strict=True)
    assert not is_healthy([fail("a", "b", "c")], strict=False)


def test_without_a_platform_only_the_host_is_checked(cloister: Any, tmp_path: Path) -> None:
    done = cloister("doctor", "--state-dir", str(tmp_path), "--json")
    assert {check["group"] for check in done.json["checks"]} == {"Host", "Programs"}
    assert done.json["platform"] is None
    assert done.code == (0 if done.json["healthy"] else 1)


def test_the_exit_code_tells_of_a_failure(cloister: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Group("Host", (lambda _subject: [fail("disk", "full", "empty it")],), needs_platform=False)
    monkeypatch.setattr("cloister.cli.doctor.checks.examine", lambda subject, _groups: examine(subject, (bad,)))
    done = cloister("doctor", "--state-dir", str(tmp_path))
    assert done.code == 1
    assert "FAIL     disk: full → empty it" in done.out


def test_a_state_directory_of_another_version_is_not_examined(cloister: Any, tmp_path: Path) -> None:
    save(Settings(state_dir=str(tmp_path)))
    (tmp_path / "layout-version").write_text("99\n")
    done = cloister("doctor", "--state-dir", str(tmp_path))
    assert (done.code, done.out) == (1, "")


class TestHost:
    @pytest.mark.parametrize(
        ("wanted", "mapper", "fuse", "loop", "level"),
        [
            ("auto", True, False, False, Level.OK),
            ("auto", False, True, True, Level.OK),
            ("auto", False, False, True, Level.FAIL),
            ("auto", False, True, False, Level.FAIL),
            ("dm-crypt", False, True, True, Level.FAIL),
            ("dm-crypt", True, False, False, Level.OK),
            ("qemu-storage-daemon", True, True, True, Level.OK),
            ("qemu-storage-daemon", True, False, True, Level.FAIL),
        ],
    )
    def test_opener(self, wanted: str, mapper: bool, fuse: bool, loop: bool, level: Level) -> None:
        assert host.decide_opener(wanted, has_mapper=mapper, has_fuse=fuse, has_loop=loop).level is level

    def test_limits_swap_and_dumps(self) -> None:
        assert host.decide_cgroups("v2", {"memory", "pids", "cpu", "io"}).level is Level.OK
        assert host.decide_cgroups("v1", {"memory", "pids", "cpu", "blkio"}).level is Level.OK
        assert host.decide_cgroups("v1", {"pids", "cpu"}).level is Level.WARNING
        assert "without io" in host.decide_cgroups("v2", {"memory", "pids", "cpu"}).seen
        assert host.decide_swap([], inside=["api"]).level is Level.OK
        assert host.decide_swap(["/dev/sda2"], inside=[]).level is Level.OK
        assert host.decide_swap(["/dev/sda2"], inside=None).level is Level.WARNING
        found = host.decide_swap(["/dev/sda2"], inside=["api"])
        assert (found.level, "/dev/sda2" in found.seen, "api" in found.seen) == (Level.FAIL, True, True)
        assert host.decide_core_dumps("core").level is Level.OK
        assert "/usr/lib/x" in host.decide_core_dumps("|/usr/lib/x %p").seen

    def test_disk(self) -> None:
        assert host.decide_disk("/", 50_000_000_000, 100_000_000_000).level is Level.OK
        assert host.decide_disk("/", 50_000_000_000, 1_000_000_000_000).level is Level.WARNING
        assert host.decide_disk("/", 900_000_000, 1_000_000_000).level is Level.FAIL


def test_an_engine_in_which_roles_can_break_out_is_refused() -> None:
    assert programs.decide_engine("postgres (PostgreSQL) 18.6").level is Level.OK
    assert programs.decide_engine("postgres (PostgreSQL) 15.18").level is Level.FAIL
    assert programs.decide_engine("").level is Level.FAIL


def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = programs.installed(SUBJECT)
    assert {finding.level for finding in found} == {Level.FAIL}
    assert any("apt-get install bubblewrap" in finding.advice for finding in found)


class TestFiles:
    def test_a_secret_that_others_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "root.key"
        path.write_bytes(b"k")
        path.chmod(0o640)
        (finding,) = files.decide(files.look(path), os.getuid(), None, 0o600)
        assert (finding.level, finding.advice) == (Level.FAIL, f"chmod 600 {path}")
        path.chmod(0o400)
        assert files.decide(files.look(path), os.getuid(), None, 0o600) == []

    def test_a_secret_of_somebody_else_or_elsewhere(self, tmp_path: Path) -> None:
        path = tmp_path / "root.key"
        path.symlink_to("/etc/hostname")
        found = files.decide(files.look(path), os.getuid() + 1, os.getgid() + 1, 0o777)
        assert len(found) == 3

    def test_every_private_file_among_the_certificates_is_looked_at(self, tmp_path: Path) -> None:
        """The links to the served pair are not: their targets are, and those of earlier pairs too."""
        paths = Settings(state_dir=str(tmp_path)).paths
        for name in ("generations/1/key.pem", "generations/1/chain.pem", "authority/root-and-key.pem", "ca.pem"):
            (paths.certificates / name).parent.mkdir(parents=True, exist_ok=True)
            (paths.certificates / name).write_text("x")
        (paths.certificates / "current").symlink_to("generations/1")
        (paths.certificates / "key.pem").symlink_to("current/key.pem")
        found = [str(path.relative_to(paths.certificates)) for path in files._private_certificates(paths)]
        assert found == ["authority/root-and-key.pem", "generations/1/key.pem"]


class TestEncryption:
    GOOD = Header("aes-xts-plain64", 512, is_clear=False)

    def image(
        self, path: Path, *, cipher: bytes = b"aes", mode: bytes = b"xts-plain64", payload: bytes = b"noise"
    ) -> Path:
        header = struct.pack(">6sH32s32s32sII", b"LUKS\xba\xbe", 1, cipher, mode, b"sha256", 8, 64)
        path.write_bytes(header.ljust(8 * 512, b"\0") + payload)
        return path

    def test_an_image_as_it_must_be(self, tmp_path: Path) -> None:
        assert volumes.read_header(self.image(tmp_path / "v")) == self.GOOD
        assert volumes.decide({"v": self.GOOD}).level is Level.OK

    def test_what_is_no_image_or_weak_or_only_looks_encrypted(self, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.write_bytes(b"XFSB" + b"\0" * 4096)
        weak = self.image(tmp_path / "weak", mode=b"ecb")
        clear = self.image(tmp_path / "clear", payload=b"XFSB")
        for path, complaint in ((plain, "not a LUKS image"), (weak, "aes-ecb"), (clear, "in clear")):
            finding = volumes.decide({"good": self.GOOD, path.name: volumes.read_header(path)})
            assert finding.level is Level.FAIL
            assert complaint in finding.seen

    def test_a_file_too_short_to_be_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "v").write_bytes(b"LUKS")
        assert volumes.read_header(tmp_path / "v") is None

    def test_a_volume_that_is_just_being_made(self, tmp_path: Path) -> None:
        """An image without a header is excused only while there is nothing in it."""
        subject = Subject(tmp_path, Settings(state_dir=str(tmp_path)))
        (tmp_path / "volumes").mkdir()
        image = tmp_path / "volumes" / "calm-forest-12345678.unfinished"
        with image.open("wb") as file:
            file.truncate(1 << 20)
        assert [each.level for each in volumes.encryption(subject)] == [Level.OK]
        image.write_bytes(b"XFSB" + b"secret" * 1000)
        assert [each.level for each in volumes.encryption(subject)] == [Level.FAIL]

    def test_plain_storage_is_said_loudly(self, tmp_path: Path) -> None:
        subject = Subject(tmp_path, Settings(state_dir=str(tmp_path), storage="plain"))
        (finding,) = volumes.encryption(subject)
        assert (finding.level, "NOTHING IS ENCRYPTED" in finding.seen) == (Level.WARNING, True)


class TestListeners:
    TCP = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 4242 1 0 100 0 0 10 0\n"
        "   1: 0100007F:1538 0100007F:AAAA 01 00000000:00000000 00:00000000 00000000   999        0 4243 1 0 100 0 0 10 0\n"
    )

    def test_the_kernels_table(self) -> None:
        assert listening(self.TCP) == [Listener("127.0.0.1", 5432, 999, 4242)]
        v6 = self.TCP.replace("0100007F:1538", "00000000000000000000000001000000:1538")
        assert listening(v6)[0].address == "::1"

    def test_this_processs_own_listener_is_found(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            found = {each.inode for each in listening(Path("/proc/net/tcp").read_text())}
            mine = listeners.socket_inodes([os.getpid()]) & found
            assert os.fstat(server.fileno()).st_ino in mine

    @pytest.mark.parametrize(
        ("extra", "level"),
        [
            ([], Level.OK),
            ([Listener("0.0.0.0", 8080, 1000, 99)], Level.OK),  # somebody else's
            ([Listener("127.0.0.1", 5433, 998, 99)], Level.FAIL),  # a service's user
            ([Listener("127.0.0.1", 5433, 1_900_000_007, 99)], Level.FAIL),  # a compute's user
            ([Listener("127.0.0.1", 5433, 0, 2)], Level.FAIL),  # a descriptor of ours
        ],
    )
    def test_only_the_two_ports(self, extra: list[Listener], level: Level) -> None:
        ours = [Listener("0.0.0.0", 5432, 0, 1), Listener("0.0.0.0", 443, 0, 1)]
        assert listeners.decide([*ours, *extra], {5432, 443}, {998}, {1, 2}).level is level

    def test_a_port_on_which_nobody_listens(self) -> None:
        assert listeners.decide([Listener("0.0.0.0", 5432, 0, 1)], {5432, 443}, set(), {1}).level is Level.FAIL

    def test_answers_in_clear(self) -> None:
        assert listeners.decide_postgres(b"E\0\0\0").level is Level.OK
        assert listeners.decide_postgres(b"R\0\0\0").level is Level.FAIL
        assert listeners.decide_https(b"").level is Level.OK
        assert listeners.decide_https(b"HTTP/1.1 401 Unauthorized\r\n").level is Level.FAIL


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (Served("n", "", "TLSv1.3", 90 * 86400), Level.OK),
        (Served("n", "", "TLSv1.3", 10 * 86400), Level.WARNING),
        (Served("n", "", "TLSv1.3", 1 * 86400), Level.FAIL),
        (Served("n", "self-signed certificate"), Level.FAIL),
    ],
)
def test_certificates(seen: Served, level: Level) -> None:
    assert certificates.decide(seen, now=0.0).level is level


def test_names() -> None:
    assert certificates.decide_names("ep-x.db.localhost", ["127.0.0.1"]).level is Level.OK
    assert "libnss-myhostname" in certificates.decide_names("ep-x.db.localhost", []).advice
    assert "*.db.example.com" in certificates.decide_names("ep-x.db.example.com", []).advice


class TestProcesses:
    UP = {"pid": 7, "is_ready": True}  # noqa: RUF012 - data of a test

    def verdict(self, service: Service, seen: Any, running: Running | None) -> list[Finding]:
        return processes.decide("api", service, 998, seen, lambda _pid: running)

    def test_as_it_must_be(self) -> None:
        assert self.verdict(Service.API, self.UP, Running(998, no_new_privileges=True)) == []
        assert self.verdict(Service.AGENT, self.UP, Running(998, no_new_privileges=False)) == []

    @pytest.mark.parametrize(
        ("seen", "running"),
        [
            (None, Running(998, no_new_privileges=True)),
            ({"pid": 7, "is_ready": False}, Running(998, no_new_privileges=True)),
            (UP, None),
            (UP, Running(0, no_new_privileges=True)),
            (UP, Running(998, no_new_privileges=False)),
        ],
    )
    def test_otherwise(self, seen: Any, running: Running | None) -> None:
        assert [each.level for each in self.verdict(Service.API, seen, running)] == [Level.FAIL]

    def test_a_real_process(self) -> None:
        seen = processes.look(os.getpid())
        assert seen is not None
        assert seen.uid == os.geteuid()


def test_migrations() -> None:
    assert records.decide_migrations({1: "a"}, {1: "a"}, "18").level is Level.OK
    assert "not applied" in records.decide_migrations({}, {1: "a"}, "18").seen
    assert "newer" in records.decide_migrations({1: "a", 2: "b"}, {1: "a"}, "18").seen
    assert "as it is here" in records.decide_migrations({1: "b"}, {1: "a"}, "18").seen


@pytest.mark.parametrize(
    ("since", "level"),
    [(None, Level.OK), ("2026-01-01T11:59:30.000000Z", Level.OK), ("2026-01-01T11:58:30.000000Z", Level.WARNING)],
)
def test_an_audit_log_that_is_no_longer_signed_is_a_warning(since: str | None, level: Level) -> None:
    """An event that came a moment ago is not: however long nothing had come before."""
    finding = records.decide_checkpoints(7, since, datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert finding.level is level
    assert ("7 events" if level is Level.OK else "not signed") in finding.seen


@pytest.mark.parametrize(
    ("can", "cookies", "level", "word"),
    [
        (Support.NO_THREADS, {}, Level.OK, "nothing to share"),
        (Support.MISSING, {}, Level.WARNING, "no core scheduling"),
        (Support.ON, {}, Level.OK, "core scheduling"),
        (Support.ON, {1: {10: 7, 11: 7, 12: 8}, 2: {20: 9}}, Level.OK, "2 of them"),
        (Support.ON, {1: {10: 7}, 2: {20: 7}}, Level.FAIL, "one cookie"),
        (Support.ON, {1: {10: 7, 11: 0}}, Level.FAIL, "11"),
        (Support.ON, {1: {10: None}}, Level.FAIL, "10"),
    ],
)
def test_hyperthreads_that_tenants_share_are_found(can: Support, cookies: Any, level: Level, word: str) -> None:
    """Of what runs, too: what was started before the kernel could is not kept apart by what it can now."""
    finding = neighbours.decide_cores(can, cookies)
    assert finding.level is level
    assert word in finding.seen
    assert ("nosmt" in finding.advice) is (can is Support.MISSING)


@pytest.mark.parametrize(
    ("said", "is_well"),
    [
        ({"l1tf": "Not affected", "mds": "Mitigation: Clear CPU buffers; SMT disabled"}, True),
        ({"l1tf": "Not affected", "mds": "Mitigation: Clear CPU buffers; SMT vulnerable"}, False),
        ({"meltdown": "Vulnerable"}, False),
        ({"spectre_v2": "Mitigation: Retpolines; PBRSB-eIBRS: Vulnerable"}, False),
        ({}, False),
    ],
)
def test_an_open_hole_in_the_processor_is_a_warning(said: dict[str, str], is_well: bool) -> None:
    finding = neighbours.decide_processor(said)
    assert finding.level is (Level.OK if is_well else Level.WARNING)
    assert all(name in finding.seen for name, text in said.items() if "ulnerable" in text)


@pytest.mark.parametrize(("run", "level"), [("0", Level.OK), ("1", Level.WARNING), ("2", Level.OK)])
def test_memory_that_is_merged_is_a_warning(run: str, level: Level) -> None:
    assert neighbours.decide_same_pages(run).level is level


def test_without_a_store_for_backups_is_a_warning(tmp_path: Path) -> None:
    (finding,) = backups.store(Subject(tmp_path, Settings(state_dir=str(tmp_path))))
    assert finding.level is Level.WARNING
    assert "lost with this machine" in finding.seen


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, [Level.OK]),
        ({"problem": "the bucket has no object lock"}, [Level.FAIL]),
        ({"too_much": ["the writer's credentials can list what is there"]}, [Level.WARNING]),
        ({"too_much": ["a", "b"], "kept_days": None}, [Level.WARNING] * 3),
        ({"kept_days": None}, [Level.WARNING]),
    ],
)
def test_what_a_store_for_backups_lacks_is_told(changes: dict[str, Any], levels: list[Level]) -> None:
    """One that is not one fails; a policy that gives too much, and what stays for ever, are warnings."""
    facts = StoreFacts(
        name="kept", place="s3.example.com", has_versions=True, has_lock=True, can_put=True, can_get=True, is_encrypted=True, kept_days=39,
    )  # fmt: skip
    found = backups.decide(msgspec.structs.replace(facts, **changes))
    assert [each.level for each in found] == levels
    assert all("kept at s3.example.com" in each.seen for each in found)


@pytest.mark.parametrize(
    ("age", "level"),
    [
        (None, Level.WARNING),
        (timedelta(hours=26), Level.OK),  # one a day, and what it takes to be late
        (timedelta(hours=28), Level.WARNING),
    ],
)
def test_how_old_the_newest_dump_of_the_control_database_is_is_told(age: timedelta | None, level: Level) -> None:
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert backups.decide_dump(None if age is None else now - age, now).level is level


def test_without_a_store_or_with_a_database_of_ones_own_no_dump_is_missed(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    (finding,) = run(backups.control_database, Subject(tmp_path, settings))
    assert finding.level is Level.WARNING
    settings.paths.store_file.parent.mkdir(parents=True)
    settings.paths.store_file.touch()
    own = msgspec.structs.replace(settings, database_url="postgresql://db.example.com/cloister")
    (finding,) = run(backups.control_database, Subject(tmp_path, own))
    assert finding.level is Level.OK


def test_a_project_without_a_volume_is_named_with_what_brings_it_back() -> None:
    assert volumes.decide_volumes(["calm-forest-12345678"], ["calm-forest-12345678", "in-the-pool"]).level is Level.OK
    found = volumes.decide_volumes([f"calm-forest-{number}" for number in range(5)], ["calm-forest-0"])
    assert found.level is Level.FAIL
    assert found.seen == "4 of 5 projects have none: calm-forest-1, calm-forest-2, calm-forest-3, …"
    assert "restore --whole" in found.advice
