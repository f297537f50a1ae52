"""The scripts: what their parts decide, and quickstart from nothing to a row and again."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.base.settings import Paths
from tests.trees import clear

ROOT = Path(__file__).resolve().parents[2]
LINK = Path("/usr/local/bin/cloister")


def bash(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines with the functions of scripts/environment.sh."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'source "{ROOT}/scripts/environment.sh"\n{script}'],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["quickstart", "test", "soak", "lock", "environment.sh", "../.ci/run"])
def test_a_script_is_one_that_bash_can_read(name: str) -> None:
    path = ROOT / "scripts" / name
    assert subprocess.run(["bash", "-n", path], check=False, timeout=10).returncode == 0
    assert os.access(path, os.X_OK) == (name != "environment.sh")


def test_only_what_is_missing_is_installed() -> None:
    assert bash("packages_for bash:bash no-such-program:some-package sh:dash").stdout == "some-package\n"
    assert bash("install_packages").returncode == 0


def test_without_a_package_manager_the_person_is_told_what_to_install(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/bin/false")
    said = bash("install_packages bubblewrap xfsprogs", PATH=str(tmp_path))
    assert said.returncode == 1
    assert "please install: bubblewrap xfsprogs" in said.stderr


@pytest.mark.parametrize(
    ("system", "machine", "complaint"), [("Darwin", "arm64", "runs on Linux"), ("Linux", "riscv64", "riscv64")]
)
def test_a_system_that_cannot_work_is_named(system: str, machine: str, complaint: str) -> None:
    said = bash(f"uname() {{ [[ $1 == -s ]] && echo {system} || echo {machine}; }}\nrequire_system")
    assert said.returncode == 1
    assert complaint in said.stderr


def test_the_python_that_is_chosen_is_new_enough() -> None:
    chosen = bash("find_python").stdout.strip()
    assert chosen
    version = subprocess.run([chosen, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    assert re.fullmatch(r"Python 3\.(1[1-9]|[2-9]\d)\.\d+\S*\n", version)


@pytest.mark.root
class TestQuickstart:
    @pytest.fixture
    def state_dir(self) -> Iterator[Path]:
        had_link = LINK.is_symlink()
        directory = Path(tempfile.mkdtemp(prefix="qs-"))
        directory.chmod(0o755)
        yield directory
        subprocess.run(
            [ROOT / ".venv/bin/cloister", "down", "--state-dir", directory, "--now"], check=False, timeout=120
        )
        shutil.rmtree(directory)
        clear(Paths(directory))
        if not had_link:
            LINK.unlink(missing_ok=True)

    def run(self, state_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "quickstart", "--state-dir", state_dir, *options],
            env={"PATH": os.environ["PATH"], "HOME": "/root"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def test_from_nothing_to_a_row_and_again(self, state_dir: Path) -> None:
        """It ends in a query over verify-full; a second run makes nothing twice; a lost password file is made anew."""
        ports = [f"--listen-postgres=localhost:{_free_port()}", f"--listen-https=localhost:{_free_port()}"]
        first = self.run(state_dir, *ports)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "PostgreSQL 1" in first.stdout
        assert "sslmode=verify-full, TLSv1.3" in first.stdout
        kept = state_dir / "secrets" / "quickstart.uri"
        assert kept.stat().st_mode & 0o777 == 0o600
        password = kept.read_text().split(":")[2].split("@")[0]
        assert password in first.stdout
        assert password not in first.stderr

        again = self.run(state_dir, *ports)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "creating project" not in again.stderr

        kept.unlink()
        third = self.run(state_dir)
        assert third.returncode == 0, third.stdout + third.stderr
        listed = subprocess.run(
            [ROOT / ".venv/bin/cloister", "projects", "list", "--state-dir", state_dir, "-o", "json"],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert [project["name"] for project in json.loads(listed.stdout)] == ["quickstart"]

    def test_a_port_in_use_is_named_with_who_uses_it(self, state_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = self.run(
                state_dir, f"--listen-postgres=127.0.0.1:{port}", f"--listen-https=localhost:{_free_port()}"
            )
        assert said.returncode == 1
        assert f"port {port} is taken by " in said.stderr
        assert f"pid={os.getpid()}" in said.stderr
        assert "Traceback" not in said.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
