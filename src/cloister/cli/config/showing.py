"""A plan for people: what would become of what, and which of it a rule refuses. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cloister.cli.config.nouns import Value, address
from cloister.cli.config.planning import CHANGE, CREATE, DESTROY, NAME, Change, Item, Plan
from cloister.cli.config.rules import Refused
from cloister.cli.output import printable

_SIGNS: Final = {CREATE: "+", CHANGE: "~", DESTROY: "-"}
_LONG_CHARS: Final = 120
# A longer text is a certificate: its digest says whether it is another one.


def lines(plan: Plan, refused: Sequence[Refused]) -> list[str]:
    return [printable(line) for line in _lines(plan, refused)]


def _lines(plan: Plan, refused: Sequence[Refused]) -> Iterator[str]:
    if not plan.items:
        yield "Nothing to do: the platform is as the configuration says."
        return
    for item in plan.items:
        yield title(item)
        width = max((len(each.path) for each in item.changes), default=0)
        for change in item.changes:
            yield f"    {change.path.ljust(width)}  {_became(change, item)}"
        for each in refused:
            if each.item is item:
                yield f"    ! {each.rule.id}: {each.rule.reason}"
    yield ""
    count = {action: sum(item.action == action for item in plan.items) for action in _SIGNS}
    yield f"{count[CREATE]} to create, {count[CHANGE]} to change, {count[DESTROY]} to destroy."
    yield f"Plan {plan.hash}"


def title(item: Item) -> str:
    return f"{_SIGNS[item.action]} {item.address}"


def step(item: Item) -> str:
    """The same on one line, with what changes."""
    paths = ", ".join(each.path for each in item.changes) if item.action == CHANGE else ""
    return f"{title(item)}{f': {paths}' if paths else ''}"


def refusal(refused: Sequence[Refused]) -> str:
    """One sentence that says what to do."""
    ids = list(dict.fromkeys(each.rule.id for each in refused))
    return f"{len(refused)} refused by rule: {', '.join(ids)}; if that is meant, say {' '.join(f'--allow {each}' for each in ids)}"


def unseen_passwords(plan: Plan) -> list[str]:
    """Roles that were made with a password which nobody was shown."""
    made = [item for item in plan.items if item.action == CREATE]
    first = [
        (*item.trail, ("branch", item.first[0]), ("role", item.first[1])) for item in made if item.kind == "project"
    ]
    roles = [item.trail for item in made if item.kind == "role" and item.settings.get("login") is not False]
    return [address(trail) for trail in (*first, *roles)]


def unseen_keys(plan: Plan) -> list[str]:
    """Accounts for machines that were made with a key which nobody was shown."""
    return [item.name for item in plan.items if item.action == CREATE and item.kind == "service_account"]


def as_json(plan: Plan, refused: Sequence[Refused], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "organization": plan.organization_id,
        "plan": plan.hash,
        "items": [item.as_json() for item in plan.items],
        "refused": [
            {"rule": each.rule.id, "reason": each.rule.reason, "address": each.item.address} for each in refused
        ],
        "problems": list(plan.problems),
        "notes": list(notes),
    }


def _became(change: Change, item: Item) -> str:
    if isinstance(change.old, list) and isinstance(change.new, list):
        lost = [f"-{each}" for each in change.old if each not in change.new]
        return " ".join([*(f"+{each}" for each in change.new if each not in change.old), *lost])
    if change.old is None and (item.action == CREATE or change.path == NAME):
        return _said(change.new)
    return f"{'?' if change.old is None else _said(change.old)} → {_said(change.new)}"


def _said(value: Value | None) -> str:
    match value:
        case None | []:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{key}={each}" for key, each in value.items()) or "nothing"
        case str() if len(value) > _LONG_CHARS:
            return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
        case _:
            return str(value)
