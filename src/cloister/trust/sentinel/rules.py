"""Reading rules: YAML in Sigma's form, one or more documents a file. What a rule means is decided here, once.

A document has one of `detection` (Sigma: one event), `correlation` (Sigma: several rules' events together) and `baseline`
(ours, in the manner of a correlation: what is unusual for a group). `summary` and `response` are ours, too: what the alarm
says, with `{fields}` of the event, and what to do first; and so are `concerns`, the field with the mail address of whom it is
about, and `each`, the field by which what happened to another is another finding. A rule that only serves others has no `level` and raises no alarm. Everything unknown is an error: a rule that was misread must not sit there and never fire.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, Final

import yaml

from cloister.trust.sentinel import baselines, correlations
from cloister.trust.sentinel.baselines import Baseline, Learning
from cloister.trust.sentinel.conditions import RuleError, Test, compiled
from cloister.trust.sentinel.correlations import Window

SHIPPED: Final = resources.files("cloister.trust.sentinel") / "rules"

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The one in C, which a package built without libyaml lacks: it spares the sentinel half of its start.

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_KNOWN: Final = {
    "title", "name", "id", "status", "level", "description", "falsepositives", "tags", "logsource", "detection",
    "correlation", "baseline", "summary", "response", "concerns",
    "each",
}  # fmt: skip


class Level(StrEnum):
    """Sigma's, from the least on."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    title: str
    level: Level | None
    """None: it serves others only."""
    summary: str
    response: str
    tags: tuple[str, ...]
    description: str
    falsepositives: tuple[str, ...]
    of: tuple[str, ...] = ()
    """The rules whose events it looks at."""
    judges: tuple[str, ...] = ()
    """Those whose events are held to what is usual, and teach nothing: they say how far something is that ends with one of `of`."""
    concerns: str = ""
    """The field with the mail address of the person whom it is about, and who is to know."""
    group_by: tuple[str, ...] = ()
    test: Test | None = None
    correlation: Mapping[str, Any] | None = None
    field: str = ""
    """Whose values a correlation counts, or a baseline learns."""
    span_s: float = 0.0
    baseline: Mapping[str, Any] | None = None

    def window(self) -> Window:
        """A new memory for this correlation."""
        assert self.correlation is not None
        kind, condition = self.correlation["type"], self.correlation.get("condition", {})
        if kind == "event_count":
            return correlations.EventCount(condition["gte"], self.span_s)
        if kind == "value_count":
            return correlations.ValueCount(condition["gte"], self.span_s)
        return correlations.Temporal(self.of, self.span_s, ordered=kind == "temporal_ordered")

    def learned(self) -> Baseline:
        """A new memory for this baseline."""
        assert self.baseline is not None
        kind, given = self.baseline["type"], self.baseline
        if kind == "dormant":
            return baselines.Dormant(given["days"])
        learning = Learning(given["learn_days"], given["learn_events"])
        if kind == "never_seen":
            return baselines.NeverSeen(learning)
        if kind == "hours":
            return baselines.Hours(learning)
        return baselines.Deviation(learning, factor=given["factor"], floor=given["floor"])


def shipped() -> list[Rule]:
    """Every rule of `rules/`, in an order in which each comes after those it refers to."""
    texts = [(file.name, file.read_text()) for file in sorted(SHIPPED.iterdir(), key=lambda it: it.name)]
    return parse(text for name, text in texts if name.endswith(".yml"))


def parse(texts: Iterable[str]) -> list[Rule]:
    """Raises RuleError."""
    found: dict[str, Rule] = {}
    for text in texts:
        try:
            documents = list(yaml.load_all(text, Loader=_LOADER))
        except yaml.YAMLError as error:
            raise RuleError(str(error)) from error
        for document in documents:
            rule = _rule(document)
            if rule.name in found:
                raise RuleError(f"two rules are called {rule.name}")
            found[rule.name] = rule
    return _ordered(found)


def _rule(document: Any) -> Rule:
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise RuleError("a rule needs a name")
    name = document["name"]
    if unknown := set(document) - _KNOWN:
        raise RuleError(f"{name}: unknown {', '.join(sorted(map(str, unknown)))}")
    if sum(kind in document for kind in ("detection", "correlation", "baseline")) != 1:
        raise RuleError(f"{name}: needs one of detection, correlation, baseline")
    try:
        level = Level(document["level"]) if "level" in document else None
        if level is not None and not (document.get("summary") and document.get("response")):
            raise RuleError(f"{name}: whoever is alarmed needs a summary and a response")
        rule = Rule(
            name=name,
            title=str(document["title"]),
            level=level,
            summary=str(document.get("summary", "")),
            response=str(document.get("response", "")),
            tags=tuple(document.get("tags", ())),
            description=str(document.get("description", "")),
            falsepositives=tuple(document.get("falsepositives", ())),
            concerns=str(document.get("concerns", "")),
            **_meaning(document),
        )
        # Whatever is missing or of a wrong type shows now.
        if rule.correlation is not None:
            rule.window()
        if rule.baseline is not None:
            rule.learned()
    except (KeyError, TypeError, ValueError) as error:
        raise RuleError(f"{name}: {error!r}") from error
    return rule


def _meaning(document: dict[str, Any]) -> dict[str, Any]:
    if "detection" in document:
        # Whom it concerns is told once for each finding, so what happens to another, or again, is another finding.
        person = (str(document["concerns"]), "resource") if "concerns" in document else ()
        each = (str(document["each"]),) if "each" in document else ()
        return {
            "test": compiled(document["detection"]),
            "group_by": ("project_id", "endpoint_id", "actor", "address", *person, *each),
        }
    kind = "correlation" if "correlation" in document else "baseline"
    given = document[kind]
    types = {
        "correlation": {"event_count", "value_count", "temporal", "temporal_ordered"},
        "baseline": {"never_seen", "deviation", "dormant", "hours"},
    }[kind]
    if given["type"] not in types:
        raise RuleError(f"unknown type {given['type']!r}")
    # What is judged besides is no part of what was learned: a rule that judges more goes on with what it knows.
    learns = {name: value for name, value in given.items() if name != "judges"}
    meaning: dict[str, Any] = {"of": tuple(given["rules"]), "group_by": tuple(given["group-by"]), kind: learns}
    if "judges" in given:
        if given["type"] != "deviation":
            raise RuleError("only of a deviation something is judged that teaches nothing")
        meaning["judges"] = tuple(given["judges"])
    if kind == "correlation":
        meaning["span_s"] = _span(given["timespan"])
        if given["type"] in ("event_count", "value_count"):
            threshold = given["condition"]["gte"]
            if (
                list(given["condition"]) not in (["gte"], ["gte", "field"], ["field", "gte"])
                or not 1 <= threshold <= 10_000
            ):
                raise RuleError("a count's condition is gte, from 1 to 10000")
        if given["type"] == "value_count":
            meaning["field"] = given["condition"]["field"]
    elif given["type"] not in ("dormant", "hours"):
        meaning["field"] = given["field"]
    return meaning


def _span(text: str) -> float:
    if not text[:-1].isdigit() or text[-1] not in _UNITS:
        raise RuleError(f"{text!r} is no timespan like 5m")
    return float(int(text[:-1]) * _UNITS[text[-1]])


def _ordered(rules: Mapping[str, Rule]) -> list[Rule]:
    """Topologically; raises RuleError for a circle or an unknown name."""
    done: dict[str, Rule] = {}
    under_way: set[str] = set()

    def visit(name: str) -> None:
        if name in done:
            return
        if name not in rules:
            raise RuleError(f"no rule is called {name}")
        if name in under_way:
            raise RuleError(f"{name} refers to itself")
        under_way.add(name)
        for each in (*rules[name].of, *rules[name].judges):
            visit(each)
        done[name] = rules[name]

    for name in rules:
        visit(name)
    return list(done.values())
