"""One event against one `detection:` of a rule. A small part of Sigma's language, all of which is here; anything else in a
rule is an error when the rule is read, not a rule that never matches.

    detection:
      failed: {action: connection.denied, reason: [bad_password, ip_not_allowed]}   # all of a map, any of a list
      ours: {address|cidr: 10.0.0.0/8}
      condition: failed and not ours

Modifiers: `contains`, `startswith`, `endswith`, `cidr`, `exists`, `gt`, `gte`, `lt`, `lte`, and `all` (every value of the
list). Conditions: names, `and`, `or`, `not`, parentheses, `1 of x*`, `all of x*`, `1 of them`, `all of them`. Texts are compared
without regard to case, as Sigma does.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloister.trust.sentinel.events import View


class RuleError(ValueError):
    """A rule says what this evaluator does not understand."""


Test = Callable[[View], bool]

_WORDS: Final = re.compile(r"\(|\)|[A-Za-z0-9_*]+")
_DEPTH_MAX: Final = 20
# Of parentheses; a rule is read by people.


def compiled(detection: Mapping[str, Any]) -> Test:
    """Raises RuleError."""
    if not isinstance(detection, Mapping) or not isinstance(detection.get("condition"), str):
        raise RuleError("a detection needs a condition")
    parts = {name: _selection(value) for name, value in detection.items() if name != "condition"}
    return _Condition(detection["condition"], parts).parsed()


def _selection(value: Any) -> Test:
    if isinstance(value, Mapping):
        fields = [_field(name, wanted) for name, wanted in value.items()]
        return lambda event: all(test(event) for test in fields)
    if isinstance(value, list) and value:
        either = [_selection(each) for each in value]
        return lambda event: any(test(event) for test in either)
    raise RuleError(f"{value!r} is no selection")


def _field(name: str, wanted: Any) -> Test:
    field, *modifiers = str(name).split("|")
    combine: Callable[[Any], bool] = any
    if "all" in modifiers:
        modifiers.remove("all")
        combine = all
    if len(modifiers) > 1 or (modifiers and modifiers[0] not in _COMPARISONS):
        raise RuleError(f"{name!r}: unknown modifier")
    if modifiers == ["exists"]:
        return lambda event: (field in event) == bool(wanted)
    compare = _COMPARISONS[modifiers[0] if modifiers else ""]
    tests = [compare(each) for each in (wanted if isinstance(wanted, list) else [wanted])]

    def test(event: View) -> bool:
        if field not in event:
            return False
        value = event[field]
        values = value if isinstance(value, list) else [value]
        return combine(any(one(each) for each in values) for one in tests)

    return test


def _equal(wanted: Any) -> Callable[[Any], bool]:
    if isinstance(wanted, str):
        if "*" in wanted or "?" in wanted:
            pattern = re.compile(fnmatch.translate(wanted.lower()))
            return lambda value: pattern.match(str(value).lower()) is not None
        lowered = wanted.lower()
        return lambda value: isinstance(value, str) and value.lower() == lowered
    return lambda value: type(value) is type(wanted) and value == wanted


def _text(compare: Callable[[str, str], bool]) -> Callable[[Any], Callable[[Any], bool]]:
    return lambda wanted: lambda value: compare(str(value).lower(), str(wanted).lower())


def _number(compare: Callable[[float, float], bool]) -> Callable[[Any], Callable[[Any], bool]]:
    def against(wanted: Any) -> Callable[[Any], bool]:
        if not _is_number(wanted):
            raise RuleError(f"{wanted!r} is no number")
        return lambda value: _is_number(value) and compare(value, wanted)

    return against


def _cidr(wanted: Any) -> Callable[[Any], bool]:
    try:
        network = ipaddress.ip_network(wanted)
    except ValueError as error:
        raise RuleError(str(error)) from error

    def is_in(value: Any) -> bool:
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return is_in


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_COMPARISONS: Final[Mapping[str, Callable[[Any], Callable[[Any], bool]]]] = {
    "": _equal,
    "contains": _text(lambda value, wanted: wanted in value),
    "startswith": _text(str.startswith),
    "endswith": _text(str.endswith),
    "cidr": _cidr,
    "exists": _equal,
    "gt": _number(lambda value, wanted: value > wanted),
    "gte": _number(lambda value, wanted: value >= wanted),
    "lt": _number(lambda value, wanted: value < wanted),
    "lte": _number(lambda value, wanted: value <= wanted),
}


class _Condition:
    """Recursive descent: `or` binds weakest, then `and`, then `not`."""

    def __init__(self, text: str, parts: Mapping[str, Test]) -> None:
        if _WORDS.sub("", text).strip():
            raise RuleError(f"condition {text!r}: unknown sign")
        self._text = text
        self._words = _WORDS.findall(text)
        self._parts = parts
        self._depth = 0

    def parsed(self) -> Test:
        test = self._either()
        if self._words:
            raise RuleError(f"condition {self._text!r}: {self._words[0]!r} was not expected")
        return test

    def _either(self) -> Test:
        tests = [self._both()]
        while self._accept("or"):
            tests.append(self._both())
        return _any(tests)

    def _both(self) -> Test:
        tests = [self._single()]
        while self._accept("and"):
            tests.append(self._single())
        return _all(tests)

    def _single(self) -> Test:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise RuleError("condition: too deep")
        try:
            if self._accept("not"):
                inner = self._single()
                return lambda event: not inner(event)
            if self._accept("("):
                test = self._either()
                if not self._accept(")"):
                    raise RuleError(f"condition {self._text!r}: ) is missing")
                return test
            return self._named()
        finally:
            self._depth -= 1

    def _named(self) -> Test:
        if not self._words:
            raise RuleError(f"condition {self._text!r} ends too early")
        word = self._words.pop(0)
        if word in ("1", "all") and self._accept("of"):
            pattern = self._words.pop(0) if self._words else ""
            tests = [
                test for name, test in self._parts.items() if fnmatch.fnmatchcase(name, pattern.replace("them", "*"))
            ]
            if not tests:
                raise RuleError(f"condition {self._text!r}: nothing is called {pattern!r}")
            return _any(tests) if word == "1" else _all(tests)
        if word not in self._parts:
            raise RuleError(f"condition {self._text!r}: nothing is called {word!r}")
        return self._parts[word]

    def _accept(self, word: str) -> bool:
        if self._words and self._words[0] == word:
            self._words.pop(0)
            return True
        return False


def _any(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda event: any(test(event) for test in tests)


def _all(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda event: all(test(event) for test in tests)
