"""Events in, alarms out: every rule over every event, in order. No clock and no I/O: time is what events say.

Its memory can be dumped and loaded; a detector that is loaded and fed the events since then is the one that never
stopped. A rule that changed, or is new, begins with an empty memory.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.trust.audit import Event
from cloister.trust.sentinel.baselines import Baseline, Deviation
from cloister.trust.sentinel.correlations import Hit, Window
from cloister.trust.sentinel.events import Lists, moment, view, weight
from cloister.trust.sentinel.rules import Level, Rule

_OF_PROJECT: Final = re.compile(r"(?: of| in)? \{project_id\}")
"""In a summary, of an event that is the platform's."""

_SUBJECT: Final = ("org_id", "project_id", "branch_id", "endpoint_id", "role", "account", "address", "resource")

_PASTED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:.-]{0,63}")
# What may be filled into a response: it is read as a command, and pasted into a shell of root. Ids and moments are so.


@dataclass(frozen=True, slots=True)
class Alarm:
    rule: str
    level: Level
    title: str
    summary: str
    """What was seen, in words; where something was unusual, what is usual."""
    response: str
    """What to do. `{id}` in it is the finding's, which is not known here."""
    fingerprint: str
    """The rule and the group: alarms with the same are one finding."""
    subject: dict[str, str]
    seq: int
    at: str
    count: int


class Detector:
    def __init__(self, rules: Sequence[Rule], lists: Lists | None = None) -> None:
        self._rules = rules
        self.lists: Lists = lists or {}
        self._windows: dict[str, Window] = {rule.name: rule.window() for rule in rules if rule.correlation is not None}
        self._learned: dict[str, Baseline] = {rule.name: rule.learned() for rule in rules if rule.baseline is not None}
        self.broken: dict[str, str] = {}
        """The rules that failed at the last event, and with what."""
        self._now = 0.0
        self._moment = 0.0

    @property
    def lost(self) -> int:
        """Groups that had to be forgotten while they still mattered, since the start."""
        return sum(memory.lost for memory in self._memories().values())

    def feed(self, seq: int, event: Event, *, latest: float = math.inf) -> list[Alarm]:
        """`latest`: no event can be of a later moment. One that says so must not carry the rules into the future.

        A rule that fails says nothing about this event, and is `broken`: it must not silence the others.
        """
        # Times may go back a little between processes; windows must not.
        self._moment = min(moment(event, self._now), latest)
        self._now = max(self._now, self._moment)
        fields = view(event, self.lists)
        fired: dict[str, int] = {}
        alarms = []
        self.broken = {}
        for rule in self._rules:
            try:
                why = self._asked(rule, fields, weight(event), fired)
                if why is not None and rule.level is not None:
                    alarms.append(_alarm(rule, fields, why, count=fired[rule.name], seq=seq))
            except Exception as error:  # whatever it is, the next rule is asked
                self.broken[rule.name] = repr(error)
        return alarms

    def dump(self) -> dict[str, Any]:
        memories = self._memories()
        return {
            "now": self._now,
            "memories": {name: [_shape(self._rule(name)), it.dump()] for name, it in memories.items()},
        }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Raises ValueError, TypeError, KeyError for what no `dump` wrote."""
        memories = self._memories()
        for name, (shape, memory) in dumped["memories"].items():
            if name in memories and shape == _shape(self._rule(name)):
                memories[name].load(memory)
        self._now = float(dumped["now"])

    def _memories(self) -> dict[str, Window | Baseline]:
        return {**self._windows, **self._learned}

    def _rule(self, name: str) -> Rule:
        return next(rule for rule in self._rules if rule.name == name)

    def _asked(self, rule: Rule, fields: Mapping[str, Any], weight_: int, fired: dict[str, int]) -> str | None:
        """Words (perhaps none) if the rule fires at this event, which `fired` then says; None if it does not."""
        if rule.test is not None:
            if not rule.test(fields):
                return None
            fired[rule.name] = weight_
            return ""
        of = [name for name in rule.of if name in fired]
        is_judged = any(name in fired for name in rule.judges)
        if not (of or is_judged) or any(name not in fields for name in (*rule.group_by, *filter(None, (rule.field,)))):
            return None
        key = tuple(str(fields[name]) for name in rule.group_by)
        value = fields[rule.field] if rule.field else ""
        if rule.baseline is not None:
            learned = self._learned[rule.name]
            if of:
                why = learned.see(key, self._now, value)
            else:
                assert isinstance(learned, Deviation)  # `rules` gives no other what is only judged
                why = learned.judge(key, self._now, value)
            if why is not None:
                fired[rule.name] = 1
            return why
        is_ordered = rule.correlation is not None and rule.correlation["type"] == "temporal_ordered"
        at = self._moment if is_ordered else self._now
        reached = self._windows[rule.name].add(key, [Hit(name, at, str(value), weight_) for name in of])
        if reached is None:
            return None
        fired[rule.name] = reached.count
        seconds = self._now - reached.since
        return f"{reached.count} within {seconds:.0f} s" if rule.correlation and "condition" in rule.correlation else ""


def _shape(rule: Rule) -> str:
    return repr((rule.of, rule.group_by, rule.correlation, rule.baseline))


def _alarm(rule: Rule, fields: Mapping[str, Any], why: str, *, count: int, seq: int) -> Alarm:
    assert rule.level is not None
    summary = rule.summary if "project_id" in fields else _OF_PROJECT.sub("", rule.summary)
    said = _Words().vformat(summary, (), {**fields, "why": why})
    pasted = {name: value for name, value in fields.items() if isinstance(value, str) and _PASTED.fullmatch(value)}
    return Alarm(
        rule=rule.name,
        level=rule.level,
        title=rule.title,
        summary=f"{said}: {why}" if why and "{why}" not in rule.summary else said,
        response=_Words().vformat(rule.response, (), {**pasted, "id": "{id}"}),
        fingerprint="|".join([rule.name, *(str(fields.get(name, "")) for name in rule.group_by)]),
        subject={name: str(fields[name]) for name in _SUBJECT if name in fields}
        | ({"person": str(fields[rule.concerns])} if rule.concerns in fields else {}),
        seq=seq,
        at=fields.get("at", ""),
        count=count,
    )


class _Words(string.Formatter):
    """Puts fields in by their names, dots included, and does nothing else: values come from strangers."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:  # noqa: ARG002
        return kwargs.get(field_name, "?"), field_name
