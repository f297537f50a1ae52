"""Options into settings: what is kept, what may change, what is refused before anything is touched."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import BadRequestError, PreconditionError
from cloister.base.settings import Address, Settings
from cloister.cli import up
from cloister.cli.failure import CommandError
from cloister.cli.install import unit

HERE = Path("/srv/cloister")
SAVED = Settings(state_dir="/srv/cloister", domain="db.example.com", gateway_workers=4)


def test_a_first_start_takes_the_defaults() -> None:
    settings = up.decide(HERE, None, {})
    assert (settings.domain, settings.storage, settings.listen_postgres) == ("db.localhost", "luks", Address("", 5432))


def test_a_second_start_without_options_uses_the_saved_settings() -> None:
    assert up.decide(HERE, SAVED, {}) == SAVED


def test_what_is_asked_changes_only_that() -> None:
    changed = up.decide(HERE, SAVED, {"gateway_workers": 8})
    assert (changed.gateway_workers, changed.domain) == (8, "db.example.com")


@pytest.mark.parametrize("asked", [{"storage": "plain"}, {"database_url": "postgresql://u:secret@elsewhere/cloister"}])
def test_what_would_strand_data_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(PreconditionError) as refused:
        up.decide(HERE, SAVED, asked)
    assert "cannot change in /srv/cloister" in refused.value.public
    assert "secret" not in refused.value.public


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@elsewhere/cloister", "postgresql:///cloister?host=elsewhere&password=secret"]
)
def test_a_password_is_not_kept_where_every_process_reads(url: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        up.decide(HERE, None, {"database_url": url})
    assert "secret" not in refused.value.public


def test_an_empty_text_takes_a_setting_back() -> None:
    given = up.decide(HERE, None, {"tls_cert_file": "/c", "tls_key_file": "/k", "proxy_protocol_from": ("10.0.0.0/8",)})
    assert (given.tls_cert_file, given.proxy_protocol_from) == ("/c", ("10.0.0.0/8",))
    back = up.decide(HERE, given, {"tls_cert_file": "", "tls_key_file": "", "proxy_protocol_from": ("",)})
    assert (back.tls_cert_file, back.tls_key_file, back.proxy_protocol_from) == (None, None, ())


def test_a_balancer_that_is_no_address_is_refused() -> None:
    with pytest.raises(BadRequestError):
        up.decide(HERE, None, {"proxy_protocol_from": ("10.0.0.0/99",)})


def test_saying_again_what_is_so_is_fine() -> None:
    assert up.decide(HERE, SAVED, {"storage": "luks"}) == SAVED


def test_certificate_files_become_absolute_for_processes_that_start_elsewhere() -> None:
    settings = up.decide(HERE, None, {"tls_cert_file": "c.pem", "tls_key_file": "k.pem"})
    assert settings.tls_cert_file == str(Path("c.pem").absolute())
    with pytest.raises(BadRequestError):
        up.decide(HERE, None, {"tls_cert_file": "c.pem"})


def test_a_running_platform_is_not_changed_behind_its_back(
    cloister: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloister.app import operator
    from cloister.base.settings import save

    save(Settings(state_dir=str(tmp_path)))
    monkeypatch.setattr(operator, "is_running", lambda _paths: True)
    again = cloister("up", "--state-dir", str(tmp_path), "--detach")
    assert (again.code, again.out) == (0, f"already up: {tmp_path}\n")
    changed = cloister("up", "--state-dir", str(tmp_path), "--domain", "other.example.com")
    assert changed.code == 1
    assert changed.err == "cloister: the platform runs with other settings: stop it with `cloister down` first\n"


def test_every_setting_can_be_given_as_an_option() -> None:
    """A setting that no option sets could only be changed by editing a file that a process may be reading."""
    names = {parameter.name for parameter in up.up.params}
    assert set(Settings.__struct_fields__) - {"state_dir"} <= names


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = unit(HERE, Path("/opt/cloister/.venv/bin/python"))
    assert "ExecStart=/opt/cloister/.venv/bin/python -P -m cloister up --state-dir /srv/cloister\n" in text
    assert {"Delegate=yes", "KillMode=mixed", "MemorySwapMax=0"} <= set(text.splitlines())
    assert not re.search(r"[{}]", text)
    if shutil.which("systemd-analyze"):
        path = tmp_path / "cloister.service"
        path.write_text(unit(HERE, Path("/bin/true")))
        said = subprocess.run(
            ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=30
        )
        assert "cloister.service:" not in said.stderr


def test_a_path_that_systemd_would_read_otherwise_is_refused() -> None:
    for path in ("/srv/my state", "/srv/%h", '/srv/"x', "/srv/$HOME"):
        with pytest.raises(CommandError):
            unit(Path(path), Path("/bin/true"))
