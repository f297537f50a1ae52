"""`cloister backups store`: what it leaves on the server, and in the log."""

from pathlib import Path

import psycopg
import pytest

from cloister.base.identities import Service, uid_of
from cloister.base.settings import Settings, save
from cloister.node.backups import store
from cloister.trust.audit.events import Event, parse
from tests.audited import raised
from tests.cli.conftest import Run
from tests.fix_database import ControlDatabase


@pytest.mark.root
def test_where_backups_go_is_said_by_root_and_told(
    control_database: ControlDatabase, cloister: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "1000")
    settings = Settings(state_dir=str(tmp_path), database_url=control_database.url())
    save(settings)
    settings.paths.courier.mkdir()
    keys = (f"[{who}]\naws_access_key_id = {who}\naws_secret_access_key = hidden\n" for who in ("writer", "reader"))
    (tmp_path / "credentials").write_text("".join(keys))
    place, file = "s3://kept-elsewhere/db/", settings.paths.store_file

    def command(verb: str, *words: str) -> Event:
        """What the log holds since."""
        said = cloister("backups", "store", verb, *words, "--state-dir", settings.state_dir)
        assert said.code == 0, said.err
        with psycopg.connect(control_database.url()) as connection:
            rows = connection.execute("SELECT body, personal FROM cloister.audit_event ORDER BY seq").fetchall()
        return parse(*rows[-1])

    told = command("set", place, "--region", "eu-central-1", "--credentials", str(tmp_path / "credentials"))
    assert (told.action, told.actor, told.resource) == ("store.set", "platform:root", place)
    assert told.details == {"to": place, "writer": "writer", "uid": "1000"}
    assert raised([told]) == {"backup-store-changed"}
    assert store.read(file).place == place
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (uid_of(Service.COURIER), 0o600)
    told = command("remove")
    assert (told.action, told.actor, told.resource) == ("store.remove", "platform:root", place)
    assert raised([told]) == {"backup-store-changed"}
    assert not file.exists()
