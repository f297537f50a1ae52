"""`cloister audit export-to`: what is in the log of a change, in which order, and what is forgotten with a target."""

from pathlib import Path

import psycopg
import pytest

from cloister.base.database import owner
from cloister.base.settings import Settings, save
from cloister.trust.audit.targets import read
from tests.cli.conftest import Run
from tests.fix_database import ControlDatabase


@pytest.mark.root
def test_a_change_is_in_the_log_before_it_is_made_and_a_target_that_is_gone_holds_up_nothing(
    control_database: ControlDatabase, cloister: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "PATIENCE_S", 0.0)
    settings = Settings(state_dir=str(tmp_path), database_url=control_database.url())
    save(settings)
    file = settings.paths.audit_exports

    def export(*words: str) -> int:
        return cloister("audit", "export-to", *words, "--state-dir", settings.state_dir).code

    def rows(query: str) -> list[tuple[str, ...]]:
        with psycopg.connect(control_database.url()) as connection:
            return connection.execute(query).fetchall()

    add = ("add-webhook", "siem", "https://siem.example.com/in")
    assert export(*add) == 1, "its directory is not there"
    assert rows("SELECT FROM cloister.audit_event") == []
    file.parent.mkdir()
    assert export(*add) == 0
    assert [it.name for it in read(file)] == ["siem"]
    with psycopg.connect(control_database.url()) as connection:
        connection.execute("INSERT INTO cloister.audit_export (name, seq) VALUES ('siem', 0)")
    away = Settings(state_dir=str(tmp_path), database_url="postgresql:///cloister?host=/nowhere")
    save(away)
    assert export("remove", "siem") == 1, "what cannot be recorded is not done"
    assert [it.name for it in read(file)] == ["siem"]
    save(settings)
    assert export("remove", "siem") == 0
    assert read(file) == []
    assert rows("SELECT FROM cloister.audit_export") == []
    assert [it for (it,) in rows("SELECT body::jsonb ->> 'action' FROM cloister.audit_event ORDER BY seq")] == [
        "export.add",
        "export.remove",
    ]
