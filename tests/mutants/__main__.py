"""Takes each control out, one at a time, in a copy of this checkout, and sees its tests fail. `scripts/mutants` starts it.

1. Copies what git knows of the checkout, once for each lane, and makes it able to run (its own .venv, its own guard).
2. Runs all tests that are named, with nothing taken out: one that fails now says nothing later.
3. For each mutant: edits the copy, runs its tests, puts the files back. A test that fails is what is wanted. Tests that all pass mean
   that nothing holds the control. An error outside of a test (a fixture, an import) means that the edit broke something else.

With a control gone, what a test attacks with may succeed: run this where nothing can be lost.
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp

from tests.mutants import ROOT, Mutant, mutants

PATIENCE_S = 600
"""For the tests of one mutant."""
BASELINE_PATIENCE_S = 7200
"""For all tests that are named, once."""
TELLS = 12
"""Lines of a run that did not go as it should, for whoever looks why."""

RED, ERROR = re.compile(r"^FAILED (\S+)", re.MULTILINE), re.compile(r"^ERROR (\S+)", re.MULTILINE)


class Result(StrEnum):
    RED = "red"
    """A test failed: the control is held."""
    SURVIVED = "SURVIVED"
    """No test minded."""
    BROKEN = "BROKEN"
    """The edit broke something else, or no test could be run."""


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    result: Result
    took_s: float
    says: str

    def line(self) -> str:
        return f"{self.result:<8}  {self.mutant.row:<5} {self.took_s:5.0f} s  {self.mutant.takes_out}  [{self.says}]"


class Lane:
    """A copy of the checkout, in which one mutant at a time is tried."""

    def __init__(self, number: int, folder: Path, memory: Path) -> None:
        self.root = folder / f"lane-{number}"
        self.disk = folder / f"t{number}"
        self.memory = memory / f"t{number}"
        self.python = self.root / ".venv" / "bin" / "python"

    def make(self) -> None:
        self.root.mkdir()
        self.disk.mkdir()
        self.memory.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        # Other people's clients are as they are, and large.
        (self.root / "tests" / "clients" / "node_modules").symlink_to(ROOT / "tests" / "clients" / "node_modules")
        # Some tests ask git what belongs to the project.
        for command in (["git", "init", "-q"], ["git", "add", "-A"]):
            subprocess.run(command, cwd=self.root, check=True)
        # The packages are that checkout's; what leads to its source is made anew.
        shutil.copytree(ROOT / ".venv", self.root / ".venv", symlinks=True, copy_function=_linked)
        for pattern in (
            "bin/cloister",
            "bin/terraform-provider-cloister",
            "lib/python*/site-packages/cloister-checkout.pth",
        ):
            for path in (self.root / ".venv").glob(pattern):
                path.unlink()
        self._ready("ensure_venv requirements-dev.lock")

    def _ready(self, what: str) -> None:
        subprocess.run(["bash", "-c", f"source scripts/environment.sh && {what}"], cwd=self.root, check=True)

    async def tried(self, mutant: Mutant) -> Verdict:
        began = time.monotonic()
        after = mutant.texts(self.root)
        before = {path: path.read_text() for path in after}
        try:
            self._put(after)
            code, said = await self.runs(mutant.tests, PATIENCE_S, "-x")
        except subprocess.CalledProcessError as error:
            code, said = -1, f"it could not be built: {error}"
        finally:
            self._put(before)
        return Verdict(mutant, *_judged(code, said, time.monotonic() - began))

    def _put(self, texts: dict[Path, str]) -> None:
        """And nothing that was compiled from what was there before: it is known by whole seconds and its size alone."""
        for path, text in texts.items():
            path.write_text(text)
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()
        if any(self.root / "guard" in path.parents for path in texts):
            self._ready("build_guard")

    async def runs(self, tests: tuple[str, ...], patience_s: float, *options: str) -> tuple[int, str]:
        """pytest's exit code, and what it said. Ended when its time is over, with all that it started."""
        tmp = self.disk if any(map(_needs_root, tests)) else self.memory
        process = await asyncio.create_subprocess_exec(
            self.python,
            *("-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", *options, *tests),
            cwd=self.root,
            env=os.environ | {"TMPDIR": str(tmp)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(patience_s):
                said, _ = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGTERM)
            said, _ = await process.communicate()
            return -1, said.decode(errors="replace") + f"\nnot done after {patience_s} s"
        return process.returncode or 0, said.decode(errors="replace")


def _linked(source: str, target: str) -> None:
    """Nothing writes into a package that is there: files of one file system need no copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _needs_root(test: str) -> bool:
    """Volumes are made on disks. By the words that scripts/test goes by, too."""
    path = ROOT / test.partition("::")[0]
    files = path.rglob("test_*.py") if path.is_dir() else [path]
    return any("journeys" in it.parts or "pytest.mark.root" in it.read_text() for it in files)


def _judged(code: int, said: str, took_s: float) -> tuple[Result, float, str]:
    if code == 0:
        return Result.SURVIVED, took_s, "all of its tests passed"
    if code == 1 and (failed := RED.search(said)):
        return Result.RED, took_s, failed.group(1)
    if error := ERROR.search(said):
        return Result.BROKEN, took_s, f"error outside of the test {error.group(1)}\n" + _end(said)
    return Result.BROKEN, took_s, f"pytest ended with {code}\n" + _end(said)


def _end(said: str) -> str:
    return "\n".join(f"    {line}" for line in said.splitlines()[-TELLS:])


async def _baseline(lane: Lane, chosen: list[Mutant]) -> bool:
    tests = tuple(sorted({name for each in chosen for name in each.tests}))
    print(f"{len(tests)} tests of {len(chosen)} mutants, with nothing taken out …", flush=True)
    code, said = await lane.runs(tests, BASELINE_PATIENCE_S)
    print(said if code else said.rstrip().splitlines()[-1], flush=True)
    return code == 0


async def _all(lanes: list[Lane], chosen: list[Mutant]) -> list[Verdict]:
    waiting, verdicts = list(reversed(chosen)), list[Verdict]()

    async def works(lane: Lane) -> None:
        while waiting:
            verdict = await lane.tried(waiting.pop())
            verdicts.append(verdict)
            print(f"[{len(verdicts)}/{len(chosen)}] {verdict.line()}", flush=True)

    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(works(lane))
    return verdicts


def _chosen(rows: list[str]) -> list[Mutant]:
    known = mutants()
    if unknown := set(rows) - {it.row for it in known}:
        raise SystemExit(f"no mutant of {', '.join(sorted(unknown))}; rows are named as in docs/controls.md")
    return [it for it in known if not rows or it.row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/mutants",
        description="Takes each control of docs/controls.md out, one at a time, in a copy of this checkout, and sees its tests fail.",
        epilog="With a control gone, what a test attacks with may succeed: run this on a machine on which nothing can be lost.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows of docs/controls.md (all of them otherwise)")
    parser.add_argument("--lanes", type=int, default=2, help="mutants at a time, each in a copy of its own (2)")
    parser.add_argument("--memory", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests with nothing taken out first")
    options = parser.parse_args()
    chosen = _chosen(options.rows)
    folder = Path(mkdtemp(prefix="m"))
    folder.chmod(0o755)  # what tests start there runs as users of its own
    lanes = [Lane(number, folder, options.memory) for number in range(max(1, min(options.lanes, len(chosen))))]
    for lane in lanes:
        lane.make()
    if not options.no_baseline and not asyncio.run(_baseline(lanes[0], chosen)):
        print("a test that fails by itself cannot show what a mutant does", file=sys.stderr)
        return 2
    verdicts = asyncio.run(_all(lanes, chosen))
    counted = Counter(it.result for it in verdicts)
    print(
        f"{len(verdicts)} mutants of {len({it.row for it in chosen})} rows: "
        + ", ".join(f"{n} {k}" for k, n in counted.items())
    )
    for verdict in verdicts:
        if verdict.result is not Result.RED:
            print(verdict.line())
    return 0 if counted[Result.RED] == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
