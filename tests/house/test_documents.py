"""The documents are complete and lead somewhere: every command, option, setting and variable has its words."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cloister.base.settings import Settings
from cloister.cli import root as commands
from cloister.cli.up import up
from tests.house.source import ROOT, SOURCE

CLI = ROOT / "docs" / "cli.md"
OPERATING = ROOT / "docs" / "operating.md"
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def all_commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(commands.root)

    def below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for word in command.list_commands(context):
                found = command.get_command(context, word)
                assert found is not None, f"{name} {word}"
                yield from below(f"{name} {word}".strip(), found)
        else:
            yield name, command

    yield from below("", commands.root)


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in all_commands()])
def test_a_command_is_documented(name: str, command: click.Command) -> None:
    """It says what it does, each of its options says what it is for, and docs/cli.md has it."""
    assert command.help, f"{name} has no help"
    assert "\\" not in command.help, f"{name} shows a backslash: click's mark is the character, not its name"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
    assert f"cloister {name}" in CLI.read_text()


def test_every_alias_leads_to_a_command() -> None:
    assert set(commands.ALIASES.values()) <= {*commands.CLIENT, *commands.PLATFORM}


def test_every_setting_is_in_the_operators_table() -> None:
    text = OPERATING.read_text()
    options = {parameter.name: parameter.opts[-1] for parameter in up.params if isinstance(parameter, click.Option)}
    missing = [name for name in Settings.__struct_fields__ if f"| `{options[name]}`" not in text]
    assert missing == []


def test_every_variable_is_documented() -> None:
    """Those of the command line; the supervisor's own are passed between processes and are nobody's business."""
    found = {
        name
        for path in (SOURCE / "cli").rglob("*.py")
        for name in re.findall(r"\"(CLOISTER_[A-Z_]+)\"", path.read_text())
    }
    assert found
    assert sorted(name for name in found if name not in CLI.read_text()) == []


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file of the repository, and every anchor a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(path.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in _anchors(found), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_that_are_named_exist(path: Path) -> None:
    """A file of ours that is named in `code` is there."""
    for name in re.findall(r"`((?:src|docs|scripts|tests|benchmarks)/[A-Za-z0-9_./-]+)`", path.read_text()):
        assert (ROOT / name).exists() or list(ROOT.glob(name)), f"{path.name} names {name}"


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """As the usual renderers make them of headings."""
    headings = re.findall(r"^#+ (.*)$", _without_code(path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
