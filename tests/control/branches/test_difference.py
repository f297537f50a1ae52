"""The difference of two texts: what Python's own library shows, and never for long."""

import difflib
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.control.branches.difference import EDITS_MAX, unified_diff

BEFORE = "CREATE TABLE t (\n    id integer\n);\n\nCREATE INDEX i ON t (id);\n"
AFTER = "CREATE TABLE t (\n    id integer,\n    name text\n);\n\nCREATE INDEX i ON t (id);\n"

_TEXTS = st.lists(st.sampled_from(["a", "b", "c", "", "--", "x;"]), max_size=40).map(
    lambda lines: "".join(f"{line}\n" for line in lines)
)


def diff(before: str, after: str) -> str:
    return unified_diff(before, after, before_name="a/db", after_name="b/db")


def test_it_is_shown_as_diff_shows_it() -> None:
    assert diff(BEFORE, AFTER) == (
        "--- a/db\n+++ b/db\n@@ -1,5 +1,6 @@\n CREATE TABLE t (\n-    id integer\n+    id integer,\n+    name text\n );\n"
        " \n CREATE INDEX i ON t (id);\n"
    )


@pytest.mark.parametrize("text", ["", BEFORE, "\n", "no newline"])
def test_the_same_differs_in_nothing(text: str) -> None:
    assert diff(text, text) == ""


def test_only_newlines_end_lines() -> None:
    assert diff("a\u2028b\x0cc\n", "a\u2028b\x0cd\n").splitlines()[:2] == ["--- a/db", "+++ b/db"]
    assert "\n-a\u2028b\x0cc\n+a\u2028b\x0cd\n" in diff("a\u2028b\x0cc\n", "a\u2028b\x0cd\n")


@settings(max_examples=200, deadline=None)
@given(before=_TEXTS, after=_TEXTS)
def test_it_leads_from_the_one_to_the_other_and_is_no_longer_than_another(before: str, after: str) -> None:
    shown = diff(before, after)
    assert _applied(before, shown) == after
    library = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm=""))
    assert _edits(shown.splitlines()) <= _edits(library)


def test_patch_takes_it(tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text(BEFORE)
    done = subprocess.run(
        ["git", "apply", "-p1", "--unsafe-paths", "-"],
        input=unified_diff(BEFORE, AFTER, before_name="a/schema.sql", after_name="b/schema.sql"),
        cwd=tmp_path, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "schema.sql").read_text() == AFTER


def test_texts_made_to_be_slow_are_not() -> None:
    """Twenty thousand lines that all occur often and hardly agree: minutes for the usual way of comparing."""
    before = "\n".join(str(n % 400) for n in range(20_000))
    after = "\n".join(str(n * 7 % 401) for n in range(20_000))
    began = time.process_time()
    shown = diff(before, after)
    assert time.process_time() - began < 10
    assert _applied(before + "\n", shown) == after + "\n"
    assert _edits(shown.splitlines()) > EDITS_MAX


def _edits(lines: list[str]) -> int:
    return sum(line[:1] in ("+", "-") for line in lines[2:])


def _applied(before: str, shown: str) -> str:
    """A patch of one's own: what `before` becomes by it."""
    old = before.removesuffix("\n").split("\n") if before else []
    new: list[str] = []
    at = 0
    for line in shown.removesuffix("\n").split("\n")[2:] if shown else []:
        if line.startswith("@@"):
            start, _, length = line.split()[1][1:].partition(",")
            target = int(start) - (length != "0")
            new += old[at:target]
            at = target
        elif line.startswith("+"):
            new.append(line[1:])
        else:
            assert old[at] == line[1:]
            at += 1
            if line.startswith(" "):
                new.append(line[1:])
    new += old[at:]
    return "".join(f"{line}\n" for line in new)
