"""The map of controls is complete, and every place in it exists."""

import ast

import click
import pytest

from cloister.cli import root as commands
from tests.house.controls import PAGE, Control, controls, page
from tests.house.source import ROOT

ROWS = (
    "C1 C1b C2 C3 C3b C4 C4b C5 C6 C7 C8 C9 C10 I1 I1b I2 I3 I4 P0 P1 P2 P3 P4 P5 P6 P7 P8 "
    "E1 E2 E3 E4 E5 A1 A2 A2b A3 A4 A5 A6 A6b A7 S1 S2 S3 G1 G2 G3 L1 L2 L3 L4 T1 T2 T3 T4 T5 T6"
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


@pytest.mark.parametrize("it", controls(), ids=lambda it: it.row)
def test_code_and_tests_that_are_named_exist(it: Control) -> None:
    for path in it.code:
        assert (ROOT / path).exists(), path
    for each in it.tests:
        path, _, name = each.partition("::")
        assert (ROOT / path).exists(), path
        if name:
            assert name in _functions(path), each


@pytest.mark.parametrize("it", controls(), ids=lambda it: it.row)
def test_a_command_that_is_named_exists(it: Control) -> None:
    words = it.evidence.split()
    if words[:1] != ["cloister"]:
        return
    context, command = click.Context(commands.root), commands.root.get_command(click.Context(commands.root), words[1])
    assert command is not None, it.evidence
    if isinstance(command, click.Group):
        command = command.get_command(context, words[2])
        assert command is not None, it.evidence
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, it.evidence


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
