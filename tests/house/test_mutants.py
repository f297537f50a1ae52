"""The mutants fit the source as it is, and no control is without one. What they do is seen with `scripts/mutants`."""

import pytest

from tests.house.controls import Control, controls
from tests.house.source import ROOT, defined
from tests.mutants import WITHOUT, Edit, Mutant, Unfit, mutants

MUTANTS = mutants()
CONTROLS = {row.row: row for row in controls()}


def ids(it: Mutant) -> str:
    return f"{it.row}-{it.takes_out}"


@pytest.mark.parametrize("it", MUTANTS, ids=ids)
def test_what_it_takes_out_is_there(it: Mutant) -> None:
    assert it.texts(ROOT)


@pytest.mark.parametrize("it", MUTANTS, ids=ids)
def test_its_tests_are_those_of_its_row(it: Mutant) -> None:
    row = CONTROLS[it.row]
    assert it.tests
    for test in it.tests:
        assert _is_in(test, row), f"{test} is not among the tests of {row.row} in docs/controls.tsv"
        path, *names = test.partition("[")[0].split("::")
        assert set(names) <= defined(ROOT / path), test


def test_each_control_has_one() -> None:
    held = {row.row for row in CONTROLS.values() if row.state != "not yet"}
    assert {it.row for it in MUTANTS} | set(WITHOUT) == held
    assert not {it.row for it in MUTANTS} & set(WITHOUT)


def test_no_two_are_one() -> None:
    assert len({(it.row, it.takes_out) for it in MUTANTS}) == len(MUTANTS)
    assert len({(it.row, it.edits) for it in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(("old", "new"), [("b", "c"), ("a", "a"), ("gone", "")], ids=["twice", "nothing", "not there"])
def test_an_edit_that_says_less_than_it_seems_is_refused(old: str, new: str) -> None:
    with pytest.raises(Unfit):
        Edit("a.py", old, new).applied("a b b")


def _is_in(test: str, row: Control) -> bool:
    file = test.partition("::")[0]
    return any(
        test == each or test.startswith(f"{each}[") or file == each or file.startswith(f"{each.rstrip('/')}/")
        for each in row.tests
    )
