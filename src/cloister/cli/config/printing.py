"""From what is there to a file that says so: sorted, so that the same is always written the same. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cloister.cli.config.nouns import KINDS, Node, Trail, Value, address, toml_key, toml_text
from cloister.cli.config.parsing import FORMAT

_LINE_CHARS_MAX: Final = 100
# Longer lists get a line for each item: a review shows which was added.


def printed(organization_id: str, there: Node) -> str:
    """A whole file. `parse` gives back what is there."""
    lines = [f"format = {FORMAT}"]
    if organization_id:
        lines.append(f"organization = {toml_text(organization_id)}")
    lines += _body(there, ())
    return "\n".join(lines) + "\n"


def _body(node: Node, trail: Trail) -> Iterator[str]:
    for word, value in _identity(node).items():
        yield f"{word} = {toml_text(value)}"
    noun = KINDS[node.kind]
    if node.whole:
        yield f"whole = {_value([kind for kind in noun.holds if kind in node.whole])}"
    for setting in noun.settings:
        if setting.path in node.settings:
            key = ".".join(map(toml_key, setting.path.split(".")))
            yield f"{key} = {_value(node.settings[setting.path], len(key))}"
    for kind in noun.holds:
        for child in sorted(node.of(kind), key=lambda child: child.word):
            below = (*trail, (kind, child.word))
            yield ""
            yield f"[{address(below)}]"
            yield from _body(child, below)


def _identity(node: Node) -> dict[str, str]:
    """Where its name alone does not say which it is."""
    said = {"name": node.name if node.key != node.name else "", "id": node.id} if node.key else {}
    return {word: value for word, value in (said | {"was": node.was}).items() if value}


def _value(value: Value, indent: int = 0) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return toml_text(value)
        case list():
            short = f"[{', '.join(map(toml_text, value))}]"
            if indent + len(short) <= _LINE_CHARS_MAX:
                return short
            return "\n".join(["[", *(f"    {toml_text(each)}," for each in value), "]"])
        case dict():
            inner = ", ".join(f"{toml_key(key)} = {toml_text(each)}" for key, each in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case _:
            return repr(value)


def as_json(node: Node) -> dict[str, Any]:
    """The same for a program."""
    said: dict[str, Any] = dict(_identity(node))
    if node.whole:
        said["whole"] = sorted(node.whole)
    for path, value in node.settings.items():
        inner: dict[str, Any] = said
        *groups, last = path.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    children: Mapping[str, tuple[Node, ...]] = node.children
    for kind, found in children.items():
        said[kind] = {child.word: as_json(child) for child in found}
    return said
