"""A process of the platform has given up what it does not need before its work begins."""

import importlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloister.app import kernel, process
from cloister.app.children import command
from cloister.app.process import LONG_LIVED, Process
from cloister.base.settings import Settings, save


@pytest.mark.parametrize("name", LONG_LIVED)
def test_it_dies_with_its_parent_gains_no_right_and_shows_its_memory_to_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's children shed their rights in their own order, which takes some."""
    done: list[str] = []
    for step in ("die_with_parent", "no_new_privileges", "no_dumps"):
        monkeypatch.setattr(kernel, step, lambda *_signal, step=step: done.append(step))

    async def run(_process: Process) -> None:
        done.append("work")

    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", lambda name: SimpleNamespace(run=run, name=name))
        assert process._begin(name, os.getppid(), 0, Settings(state_dir=str(tmp_path))) == 0
    expected = ["die_with_parent", "no_new_privileges", "no_dumps", "work"]
    if name == "agent":
        expected.remove("no_new_privileges")
    assert done == expected


def test_who_was_started_by_somebody_else_ends_at_once(tmp_path: Path) -> None:
    """Its supervisor was killed before it could ask to die with it; whoever adopted it need not be PID 1."""
    settings = Settings(state_dir=str(tmp_path))
    save(settings)
    words = command("egress", settings)
    words[words.index("--supervisor") + 1] = str(os.getpid() + 1)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (1, "the supervisor is gone")
