"""`cloister backups store`: what it leaves on the server, and in the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg
import pytest

from cloister.base.identities import Service, uid_of
from cloister.base.settings import Settings, save
from cloister.node.backups import store
from cloister.trust.audit.events import Event, parse
from tests.audited import raised
from tests.cli.conftest import Run
from tests.fix_database import ControlDatabase

PLACE: Final = "s3://kept-elsewhere/db/"


@pytest.fixture
def settings(control_database: ControlDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SUDO_UID", "1000")
    settings = Settings(state_dir=str(tmp_path), database_url=control_database.url())
    save(settings)
    keys = (f"[{who}]\naws_access_key_id = {who}\naws_secret_access_key = hidden\n" for who in ("writer", "reader"))
    (tmp_path / "credentials").write_text("".join(keys))
    return settings


@pytest.fixture
def told(control_database: ControlDatabase) -> Callable[[], list[Event]]:
    """The log."""

    def read() -> list[Event]:
        with psycopg.connect(control_database.url()) as connection:
            rows = connection.execute("SELECT body, personal FROM cloister.audit_event ORDER BY seq").fetchall()
        return [parse(*row) for row in rows]

    return read


def setting(settings: Settings) -> list[str]:
    given = ["--region", "eu-central-1", "--credentials", f"{settings.state_dir}/credentials"]
    return ["backups", "store", "set", PLACE, *given, "--state-dir", settings.state_dir]


@pytest.mark.root
def test_where_backups_go_is_said_by_root_and_told(
    settings: Settings, cloister: Run, told: Callable[[], list[Event]]
) -> None:
    settings.paths.courier.mkdir()
    file = settings.paths.store_file
    assert cloister(*setting(settings)).code == 0
    event = told()[-1]
    assert (event.action, event.actor, event.resource) == ("store.set", "platform:root", PLACE)
    assert event.details == {"to": PLACE, "writer": "writer", "uid": "1000"}
    assert raised([event]) == {"backup-store-changed"}
    assert store.read(file).place == PLACE
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (uid_of(Service.COURIER), 0o600)
    assert cloister("backups", "store", "remove", "--state-dir", settings.state_dir).code == 0
    event = told()[-1]
    assert (event.action, event.actor, event.resource) == ("store.remove", "platform:root", PLACE)
    assert raised([event]) == {"backup-store-changed"}
    assert not file.exists()


@pytest.mark.root
def test_a_store_is_taken_over_by_roots_word_alone(
    settings: Settings, cloister: Run, told: Callable[[], list[Event]]
) -> None:
    settings.paths.courier.mkdir()
    assert cloister(*setting(settings)).code == 0
    assert not settings.paths.backup_take_over.exists()
    assert cloister(*setting(settings), "--take-over").code == 0
    assert settings.paths.backup_take_over.exists()
    assert told()[-1].details == {"to": PLACE, "writer": "writer", "uid": "1000", "take_over": True}


@pytest.mark.root
def test_what_cannot_be_written_is_not_told_and_what_fails_after_it_was_told_is_told_too(
    settings: Settings, cloister: Run, told: Callable[[], list[Event]]
) -> None:
    before = told()
    assert cloister(*setting(settings)).code == 1, "its directory is not there"
    assert told() == before
    settings.paths.store_file.mkdir(parents=True)  # in the way
    said = cloister(*setting(settings))
    assert (said.code, "nothing was changed" in said.err) == (1, True)
    wanted, failed = told()[len(before) :]
    assert (wanted.action, wanted.outcome) == ("store.set", "ok")
    assert (failed.action, failed.outcome, failed.reason) == ("store.set", "failed", "Is a directory")
    assert raised([failed]) == set()
    assert list(settings.paths.courier.iterdir()) == [settings.paths.store_file], "no secret is left there"
