"""The map of controls is complete, and every place in it exists."""

import click
import pytest

from cloister.cli import root as commands
from cloister.trust.sentinel import rules
from tests.house.controls import PAGE, Control, controls, page
from tests.house.source import ROOT, defined

ROWS = (
    "C1 C1b C2 C3 C3b C4 C4b C5 C6 C7 C8 C9 C10 I1 I1b I2 I3 I4 P0 P1 P2 P3 P4 P5 P6 P7 P8 "
    "B1 B2 BK1 BK2 BK3 BK4 BK5 BK6 E1 E2 E3 E4 E5 ENC1 ENC2 ENC3 ENC4 ENC5 ENC6 ENC7 ENC8 "
    "KMS1 KMS2 KMS3 KMS4 KMS5 KMS6 KMS7 KMS8 A1 A2 A2b A3 A4 A5 A6 A6b A7 IAC1 IAC2 IAC3 IAC4 IAC5 IAC6 S1 S2 S3 G1 G2 G3 "
    "D-01 D-02 D-03 D-04 D-05 D-06 D-07 D-08 D-09 D-10 D-11 D-12 D-13 D-14 D-15 D-16 D-17 D-18 D-19 D-20 D-21 D-22 D-23 "
    "D-24 D-25 L1 L2 L3 L4 AL1 AL2 AL3 AL4 AL5 AL6 AL7 AL8 AL9 "
    "T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 T13 T14 T15 T16 T17 T18 T19 T20 T21 T22 T23 T24"
).split()
"""The sentences that we took upon us, by the names that the catalogue of requirements gave them."""


def test_every_sentence_has_one_row() -> None:
    assert [it.row for it in controls()] == ROWS


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("it", controls(), ids=lambda it: it.row)
def test_a_row_says_what_is_there_and_what_is_not(it: Control) -> None:
    assert it.state in ("yes", "partly", "not yet")
    assert bool(it.missing) == (it.state != "yes")
    if it.state == "not yet":
        assert not it.code
        assert not it.tests
    else:
        assert it.control
        assert it.code
        assert it.tests
        assert it.evidence


def test_every_finding_stands_in_the_row_that_asks_for_it() -> None:
    """And no row names one that is not there."""
    tagged = {(tag.removeprefix("cloister."), it.name) for it in rules.shipped() if it.level for tag in it.tags}
    named = {(it.row, name) for it in controls() if it.group == "D" for name in it.control.replace("`", "").split(", ")}
    assert named == {(tag, name) for tag, name in tagged if tag.startswith("D-")}


@pytest.mark.parametrize("it", controls(), ids=lambda it: it.row)
def test_code_and_tests_that_are_named_exist(it: Control) -> None:
    for path in it.code:
        assert (ROOT / path).exists(), path
    for each in it.tests:
        path, *names = each.split("::")
        assert (ROOT / path).exists(), path
        if names:
            assert set(names) <= defined(ROOT / path), each


@pytest.mark.parametrize("it", controls(), ids=lambda it: it.row)
def test_a_command_that_is_named_exists(it: Control) -> None:
    words = it.evidence.split()
    if words[:1] != ["cloister"]:
        return
    context, command = click.Context(commands.root), commands.root.get_command(click.Context(commands.root), words[1])
    assert command is not None, it.evidence
    below = iter(words[2:])
    while isinstance(command, click.Group):
        command = command.get_command(context, next(below))
        assert command is not None, it.evidence
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, it.evidence
