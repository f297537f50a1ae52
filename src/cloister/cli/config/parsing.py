"""From files to what they want: strict, and to the place. Pure.

A key that nothing knows, a value of another form, two things of one name: each is an error that names the file and the
key, and nothing is guessed, for whoever reads the file in a review must be able to rely on it. What must stay true:
whatever the bytes, the outcome is a `Configuration` or a ConfigurationError.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.cli.config.nouns import (
    KINDS,
    NAME_CHARS_MAX,
    NEVER,
    PEOPLE,
    FormError,
    Node,
    Settings,
    Trail,
    Value,
    address,
    is_text,
    toml_key,
)
from cloister.cli.failure import CommandError

FORMAT: Final = 1
"""Of the file. Another one means something else, and is refused."""

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
# A thousand projects of twenty branches. More is not written by hand, and not read in a review.

NAME_BYTES_MAX: Final = {"role": 63, "database": 63, "group": 2 * 1024}
# PostgreSQL's; and an issuer's name with a group of any script.


class ConfigurationError(CommandError):
    """A file does not say what it should. One sentence, with the file and the key."""


@dataclass(frozen=True, slots=True)
class Configuration:
    wanted: Node
    organization_id: str = ""
    """Empty: the only one there is."""


def parse(files: Sequence[tuple[str, bytes]]) -> Configuration:
    """Several files are one configuration: each thing stands in one of them. Raises ConfigurationError."""
    if not files:
        raise ConfigurationError("there is no .toml file")
    parts = [(name, _one(name, content)) for name, content in files]
    return _together(parts)


def _one(file: str, content: bytes) -> Configuration:
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{file} has more than {FILE_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not UTF-8 text") from None
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deeply") from None
    except ValueError as error:  # also of a number with thousands of digits, which is no TOMLDecodeError
        raise ConfigurationError(f"{file}: {error}") from None
    version = document.pop("format", None)
    if type(version) is not int or version != FORMAT:
        raise ConfigurationError(f"{file}: begin with `format = {FORMAT}`, which says how the rest is meant")
    organization_id = document.pop("organization", "")
    if not isinstance(organization_id, str):
        raise ConfigurationError(f"{file}: organization: the organization's id, a text")
    return Configuration(_Reader(file).node("organization", document, (), ""), organization_id)


@dataclass(frozen=True, slots=True)
class _Reader:
    file: str

    def node(self, kind: str, table: Mapping[str, Any], trail: Trail, key: str) -> Node:
        noun = KINDS[kind]
        settings: dict[str, Value] = {}
        children: dict[str, tuple[Node, ...]] = {}
        own = _own_words(kind)
        for word, value in table.items():
            if word in noun.holds:
                children[word] = self._children(word, value, trail)
            elif word not in own:
                self._setting(kind, word, value, trail, settings)
        self._check(kind, settings, trail)
        return Node(
            kind=kind,
            name=self._name(kind, table, trail, key),
            key=key if kind == "project" else "",
            was=self._text(table, "was", trail) if noun.is_renamed else "",
            id=self._text(table, "id", trail) if kind == "project" else "",
            settings=settings,
            children=children,
            whole=self._whole(table, noun.holds, trail),
        )

    def _setting(self, kind: str, path: str, value: Any, trail: Trail, settings: dict[str, Value]) -> None:
        by_path = KINDS[kind].by_path
        setting = by_path.get(path)
        if setting is not None:
            try:
                settings[path] = setting.form(value)
            except FormError as error:
                raise self._wrong(trail, path, f"expected {error}") from None
        elif any(each.startswith(f"{path}.") for each in by_path):
            if not isinstance(value, dict):
                raise self._wrong(trail, path, "expected a table")
            for word, inner in value.items():
                self._setting(kind, f"{path}.{word}", inner, trail, settings)
        else:
            near = difflib.get_close_matches(path, sorted({*by_path, *KINDS[kind].holds, *_own_words(kind)}), 1)
            raise self._wrong(trail, path, f"there is no such key{f'; did you mean {near[0]}?' if near else ''}")

    def _children(self, kind: str, value: Any, trail: Trail) -> tuple[Node, ...]:
        noun = KINDS[kind]
        if not isinstance(value, dict):
            raise self._wrong(trail, kind, "expected a table")
        if noun.is_one:
            return (self.node(kind, value, (*trail, (kind, kind)), kind),)
        found: dict[str, Node] = {}
        for key, inner in value.items():
            place = (*trail, (kind, key))
            self._check_name(kind, key, place)
            if not isinstance(inner, dict):
                raise self._wrong(trail, f"{kind}.{toml_key(key)}", "expected a table")
            child = self.node(kind, inner, place, key)
            if child.id == "" and child.name in found:
                raise self._wrong(place, "", f"there are two of the name {child.name!r}: say the id of each")
            found[child.id or child.name] = child
        if kind == "reader" and sorted(found) != [str(number) for number in range(1, len(found) + 1)]:
            raise self._wrong(trail, kind, "readers are numbered from 1, without a gap")
        return tuple(found.values())

    def _name(self, kind: str, table: Mapping[str, Any], trail: Trail, key: str) -> str:
        if kind == "project" and "name" in table:
            name = self._text(table, "name", trail)
            self._check_name(kind, name, trail)
            return name
        parse_name = KINDS[kind].parse_name
        if parse_name is None:
            return key
        try:
            return parse_name(key)
        except FormError as error:
            raise self._wrong(trail, "", f"expected {error}") from None

    def _check_name(self, kind: str, name: str, trail: Trail) -> None:
        most = NAME_BYTES_MAX.get(kind, NAME_CHARS_MAX)
        if not name or not is_text(name) or len(name.encode()) > most:
            raise self._wrong(trail, "", f"a name has 1 to {most} bytes, and no U+0000")

    def _text(self, table: Mapping[str, Any], word: str, trail: Trail) -> str:
        value = table.get(word, "")
        if not isinstance(value, str) or (word in table and not value):
            raise self._wrong(trail, word, "expected a text")
        return value

    def _whole(self, table: Mapping[str, Any], holds: Sequence[str], trail: Trail) -> frozenset[str]:
        value = table.get("whole", [])
        if not isinstance(value, list) or not all(isinstance(each, str) and each in holds for each in value):
            raise self._wrong(trail, "whole", f"expected a list of {', '.join(holds)}")
        return frozenset(value)

    def _check(self, kind: str, settings: Settings, trail: Trail) -> None:
        """What one setting says of another."""
        if kind != "organization":
            return
        beside = [path for path in settings if path.startswith("access_reviews.") and not path.endswith(".every_days")]
        every = settings.get("access_reviews.every_days")
        if beside and every in (None, NEVER):
            raise self._wrong(trail, beside[0], "access_reviews.every_days has to say how often there is one")

    def _wrong(self, trail: Trail, path: str, why: str) -> ConfigurationError:
        where = [address(trail)] if trail else []
        where += [".".join(map(toml_key, path.split(".")))] if path else []
        return ConfigurationError(f"{self.file}: {'.'.join(where)}: {why}")


def _own_words(kind: str) -> set[str]:
    """What is said of a thing beside its settings and what it holds."""
    noun = KINDS[kind]
    words = {"name", "id"} if kind == "project" else set()
    return words | ({"was"} if noun.is_renamed else set()) | ({"whole"} if noun.holds else set())


def _together(parts: Sequence[tuple[str, Configuration]]) -> Configuration:
    settings: dict[str, tuple[str, Value]] = {}
    projects: dict[str, tuple[str, Node]] = {}
    keys: dict[str, str] = {}
    people: dict[tuple[str, str], tuple[str, Node]] = {}
    named: dict[str, str] = {}
    for file, part in parts:
        if part.organization_id:
            named[part.organization_id] = file
        for path, value in part.wanted.settings.items():
            if path in settings:
                raise ConfigurationError(f"{file}: {path}: stands in {settings[path][0]} too")
            settings[path] = file, value
        for project in part.wanted.of("project"):
            identity = project.id or project.name
            before = projects[identity][0] if identity in projects else keys.get(project.key)
            if before is not None:
                raise ConfigurationError(f"{file}: {address((('project', project.key),))}: stands in {before} too")
            projects[identity], keys[project.key] = (file, project), file
        for each in (it for kind in PEOPLE for it in part.wanted.of(kind)):
            place = (each.kind, each.name)
            if place in people:
                raise ConfigurationError(f"{file}: {address((place,))}: stands in {people[place][0]} too")
            people[place] = file, each
    if len(named) > 1:
        raise ConfigurationError(f"{' and '.join(named.values())} name different organizations")
    things = [node for _, node in (*people.values(), *projects.values())]
    kinds = dict.fromkeys(each.kind for each in things)
    wanted = Node(
        kind="organization",
        name="",
        settings={path: value for path, (_, value) in settings.items()},
        children={kind: tuple(each for each in things if each.kind == kind) for kind in kinds},
        whole=frozenset().union(*(part.wanted.whole for _, part in parts)),
    )
    return Configuration(wanted, next(iter(named), ""))
