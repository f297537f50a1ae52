"""Mutants: for each control, an edit of the source that takes it out, and the tests that must then fail.

The tables beside this file (`*.toml`) hold them, `scripts/mutants` runs them (`__main__.py`), and tests/house/test_mutants.py sees
that they still fit the source. A row of docs/controls.tsv that has none says why in WITHOUT.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]

WITHOUT: dict[str, str] = {}
"""Rows that no edit of ours can take out, with the reason."""


class Unfit(Exception):  # noqa: N818 - a mutant that does not fit is no error of the program
    """An edit whose old text is not in its file, or is there more than once."""


@dataclass(frozen=True)
class Edit:
    """Within one file, `old` becomes `new`; `old` is there once, or nobody knows what was taken out."""

    file: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        if (found := text.count(self.old)) != 1:
            raise Unfit(f"{self.file}: the text that is to go is there {found} times: {self.old.strip()!r}")
        if self.old == self.new:
            raise Unfit(f"{self.file}: nothing is taken out")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Mutant:
    row: str
    takes_out: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]

    def texts(self, root: Path) -> dict[Path, str]:
        """What the files it touches say once it is applied. Raises Unfit."""
        found: dict[Path, str] = {}
        for edit in self.edits:
            path = root / edit.file
            found[path] = edit.applied(found.get(path) or path.read_text())
        return found


def mutants() -> list[Mutant]:
    return [_read(raw) for path in sorted(FOLDER.glob("*.toml")) for raw in _tables(path)]


def _tables(path: Path) -> Iterator[dict[str, Any]]:
    yield from tomllib.loads(path.read_text())["mutant"]


def _read(raw: dict[str, Any]) -> Mutant:
    edits = raw.get("edits") or [{name: raw[name] for name in ("file", "old", "new")}]
    return Mutant(raw["row"], raw["takes_out"], tuple(Edit(**each) for each in edits), tuple(raw["tests"]))
