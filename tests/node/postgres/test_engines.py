import asyncio
import os
from pathlib import Path

import pytest

from cloister.base.durable import sync_directory
from cloister.base.errors import ExhaustedError, InternalError, PreconditionError, UnprocessableError
from cloister.base.settings import Paths
from cloister.node.postgres import engines as engines_module
from cloister.node.postgres import template
from cloister.node.postgres.access import PG_HBA, PG_IDENT, Doors
from cloister.node.postgres.engines import Engine, Engines, Installation, discover
from cloister.node.sandbox import rootfs
from tests.node.conftest import cut_power

DOORS = Doors(api_uid=11, gateway_uid=12, shared_gid=13)


class FakeWorkshop:
    def __init__(self, output: str = "") -> None:
        self.output = output
        self.programs: list[list[str]] = []
        self.roots = 0

    def build_root(self, engine: Engine, texts: dict[str, str], directories: tuple[str, ...]) -> None:
        self.roots += 1
        self.texts = texts
        engine.root.mkdir(parents=True)

    async def run(self, engine: Engine, data: Path, program: list[str], stdin: bytes) -> str:
        await asyncio.sleep(0)
        self.programs.append(program)
        for database in ("1", "4", "5"):
            (data / "base" / database).mkdir(parents=True, exist_ok=True)
            (data / "base" / database / "1259").write_bytes(b"same" * 3000)
            (data / "base" / database / "own").write_text(database)
            (data / "base" / database / "empty").touch()
            for suffix in ("_fsm", "_vm", "_init"):
                (data / "base" / database / f"1259{suffix}").write_text("a map, or what a table begins as")
        (data / "PG_VERSION").write_text("18\n")
        (data / "postgresql.conf").touch()
        return self.output


def installation(tmp_path: Path, major: int = 18) -> Installation:
    bindir = tmp_path / "site" / "pg" / "bin"
    bindir.mkdir(parents=True, exist_ok=True)
    (bindir / "postgres").touch()
    guard = tmp_path / "guard.so"
    guard.write_bytes(b"guard")
    return Installation(
        major=major,
        version=f"{major}.1",
        bindir=bindir,
        pkglibdir=tmp_path / "site" / "pg" / "lib",
        sharedir=tmp_path / "site" / "pg" / "share",
        guard=guard,
        base=tmp_path / "site",
    )


def made(tmp_path: Path, workshop: FakeWorkshop) -> Engines:
    return Engines(Paths(tmp_path / "state"), DOORS, workshop, [installation(tmp_path)])


def test_the_packaged_engine_is_found_and_those_before_16_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    found = discover()
    assert found[0].major == 18
    assert (found[0].bindir / "postgres").exists()
    assert all(installation.major >= 16 for installation in found)


def test_an_old_installation_is_left_out_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = installation(tmp_path, major=15)
    monkeypatch.setattr(engines_module, "_packaged", lambda: [old])
    monkeypatch.setattr(engines_module, "_distributed", list)
    with caplog.at_level("INFO"):
        assert discover() == []
    assert "PostgreSQL 15.1" in caplog.text


def test_an_installation_without_a_guard_is_not_offered_and_the_log_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = installation(tmp_path)
    monkeypatch.setattr(engines_module, "_packaged", lambda: [found])
    monkeypatch.setattr(engines_module, "_distributed", list)
    assert discover() == [found]
    found.guard.unlink()
    assert discover() == []
    assert "PostgreSQL 18.1" in caplog.text
    assert "postgresql-server-dev-18" in caplog.text


def test_another_guard_makes_another_engine(tmp_path: Path) -> None:
    found = installation(tmp_path)

    def home() -> Path:
        return Engines(Paths(tmp_path / "state"), DOORS, FakeWorkshop(), [found]).get(18).home

    before = home()
    assert home() == before
    found.guard.write_bytes(b"another")
    assert home() != before


def test_an_unknown_version_is_refused_with_those_there_are(tmp_path: Path) -> None:
    engines = made(tmp_path, FakeWorkshop())
    assert engines.versions() == {18: "18.1"}
    with pytest.raises(UnprocessableError) as caught:
        engines.get(17)
    assert caught.value.public == "PostgreSQL 17 is not offered here (offered: 18)"


async def test_a_template_is_made_once_however_many_ask(tmp_path: Path) -> None:
    workshop = FakeWorkshop()
    engines = made(tmp_path, workshop)
    engine = engines.get(18)
    with pytest.raises(PreconditionError):
        engines.populate(engine, tmp_path / "data", os.getuid())
    await asyncio.gather(*(engines.ensure_template(engine) for _ in range(5)))
    assert workshop.roots == 1
    assert [Path(program[0]).name for program in workshop.programs] == ["initdb", "postgres", "pg_resetwal", "postgres"]
    assert workshop.texts["/etc/postgresql/pg_hba.conf"] == PG_HBA

    again = FakeWorkshop()
    await made(tmp_path, again).ensure_template(engine)
    assert (again.roots, again.programs) == (0, [])


async def test_a_template_with_an_error_in_it_is_not_kept(tmp_path: Path) -> None:
    engines = made(tmp_path, FakeWorkshop("ERROR:  role exists"))
    engine = engines.get(18)
    with pytest.raises(InternalError, match="role exists"):
        await engines.ensure_template(engine)
    assert not engine.manifest.exists()


async def test_a_copy_is_the_template_without_what_lies_elsewhere(tmp_path: Path) -> None:
    engines = made(tmp_path, FakeWorkshop())
    engine = engines.get(18)
    await engines.ensure_template(engine)
    data = tmp_path / "data"
    engines.populate(engine, data, os.getuid())
    assert (data / "base" / "5" / "1259").read_bytes() == b"same" * 3000
    assert (data / "base" / "5" / "own").read_text() == "5"
    assert (data / "base" / "5" / "empty").stat().st_size == 0
    assert sorted(path.name for path in (data / "base" / "5").iterdir()) == ["1259", "1259_init", "empty", "own"]
    assert data.stat().st_mode & 0o777 == 0o700
    assert not (data / "postgresql.conf").exists()
    with pytest.raises(FileExistsError):
        engines.populate(engine, data, os.getuid())


async def test_files_that_are_the_same_are_known_to_be(tmp_path: Path) -> None:
    engines = made(tmp_path, FakeWorkshop())
    engine = engines.get(18)
    await engines.ensure_template(engine)
    text = engine.manifest.read_text()
    assert text.count('"same_as":"base/1/1259"') == 2
    assert "base/1/own" in text
    assert '"same_as":"base/1/own"' not in text


async def test_a_full_volume_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = made(tmp_path, FakeWorkshop())
    engine = engines.get(18)
    await engines.ensure_template(engine)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(ExhaustedError):
        engines.populate(engine, tmp_path / "data", os.getuid())


def test_a_change_of_the_accounts_makes_a_new_engine(tmp_path: Path) -> None:
    one = made(tmp_path, FakeWorkshop()).get(18)
    other = Engines(Paths(tmp_path / "state"), Doors(1, 2, 3), FakeWorkshop(), [installation(tmp_path)]).get(18)
    assert one.home != other.home


def test_the_superuser_is_asked_for_before_everybody_else() -> None:
    """pg_hba.conf takes the first line that matches: the gateway's line must not be the first for cloister_admin."""
    lines = [line.split() for line in PG_HBA.splitlines() if not line.startswith("#")]
    assert lines == [
        ["local", "all", "cloister_admin", "peer", "map=platform"],
        ["local", "all", "cloister_reader", "peer", "map=reader"],
        ["local", "all", "all", "peer", "map=gateway"],
    ]
    maps = [line.split() for line in PG_IDENT.splitlines() if not line.startswith("#")]
    assert maps == [
        ["platform", "cloister-api", "cloister_admin"],
        ["reader", "cloister-reader", "cloister_reader"],
        ["gateway", "cloister-gateway", "all"],
        ["gateway", "cloister-pooler", "all"],
    ]


def test_inside_only_the_callers_have_names() -> None:
    names = [line.split(":")[0] for line in DOORS.passwd().splitlines()]
    assert names == ["cloister-api", "cloister-gateway", "cloister-reader", "cloister-pooler"]


def test_initdb_knows_the_builtin_collation_since_17() -> None:
    assert "--builtin-locale=C.UTF-8" in template.initdb("initdb", 17)
    assert not any("builtin" in word for word in template.initdb("initdb", 16))
    assert b"event_triggers" not in template.first_statements(16)


@pytest.mark.root
async def test_what_is_there_after_a_power_cut_is_whole(volume: Path, tmp_path: Path) -> None:
    """It is looked at by its name alone, and all that is made of it would be as it is."""
    engines = Engines(Paths(volume), DOORS, FakeWorkshop(), [installation(tmp_path)])
    engine = engines.get(18)
    await engines.ensure_template(engine)
    root = volume / "root"
    rootfs.build(root, rootfs.Contents(files={}, texts={"/etc/passwd": "x" * 9000}, directories=()))
    for directory in (engine.home, volume):
        sync_directory(directory)  # as somebody's next file does
    cut_power(volume)
    engines.populate(engine, volume / "data", os.getuid())
    assert (volume / "data" / "base" / "5" / "1259").read_bytes() == b"same" * 3000
    assert (root / "etc/passwd").read_text() == "x" * 9000
