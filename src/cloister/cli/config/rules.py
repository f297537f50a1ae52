"""Which plans are dangerous: a table of our own rules, and those that a team writes for itself. Pure.

A rule refuses a step unless it is named (`--allow`): not because the step is wrong, but because nobody should make it by
deleting a line. What the platform itself refuses, it refuses whatever is allowed here.
"""

import fnmatch
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.base.audit_levels import AuditLevel
from cloister.base.errors import CloisterError
from cloister.base.ipallow import IpRange
from cloister.base.tags import KEPT
from cloister.cli.config.nouns import FOREVER, KINDS, MEMBER_ROLES, NEVER, PEOPLE, Value, address, schedule_item
from cloister.cli.config.parsing import FILE_BYTES_MAX, ConfigurationError
from cloister.cli.config.planning import CHANGE, CREATE, DESTROY, Change, Item

_HALF_OF: Final = {4: 2**31, 6: 2**127}
# Of all addresses: what lets in so many, in one piece or in several, is no allow list.

_OWN_WORDS: Final = frozenset({"id", "reason", "action", "kind", "address", "setting", "value", "above", "below"})
_ID_CHARS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    reason: str
    refuses: Callable[[Item], bool]


@dataclass(frozen=True, slots=True)
class Refused:
    rule: Rule
    item: Item


def judge(items: Sequence[Item], rules: Iterable[Rule], allowed: Iterable[str]) -> list[Refused]:
    """What must not be done. Raises ConfigurationError for an allowed rule that there is not."""
    rules = list(rules)
    unknown = set(allowed) - {rule.id for rule in rules}
    if unknown:
        raise ConfigurationError(
            f"there is no rule {', '.join(sorted(unknown))}: there are {', '.join(rule.id for rule in rules)}"
        )
    return [Refused(rule, item) for item in items for rule in rules if rule.id not in allowed and rule.refuses(item)]


# ── our own ──


def _destroys(item: Item) -> bool:
    holds_data = item.kind in ("project", "branch", "compute", "reader", "role", "database")
    return item.action == DESTROY and holds_data and not item.is_fresh


def _when(path: str, is_so: Callable[[Any, Any], bool], *kinds: str) -> Callable[[Item], bool]:
    """One of the changes is of this setting, and so. `old` is None where there was nothing, or nobody says."""

    def refuses(item: Item) -> bool:
        return (not kinds or item.kind in kinds) and any(
            each.path == path and is_so(each.old, each.new) for each in item.changes
        )

    return refuses


def _lets_all_in(old: Value | None, new: Value | None) -> bool:
    return _is_open(new) and not _is_open(old)


def _is_open(entries: Value | None) -> bool:
    spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for entry in entries if isinstance(entries, list) else []:
        try:
            span = IpRange.parse(entry)
        except CloisterError:
            continue  # an old entry that nothing could read allowed nobody
        spans[span.first.version].append((int(span.first), int(span.last)))
    return any(_covered(found) >= _HALF_OF[version] for version, found in spans.items())


def _narrows(item: Item) -> bool:
    """Only of a list that kept somebody out."""
    before = next(
        (each.old for each in item.changes if each.path == "ip_allow.addresses"),
        item.settings.get("ip_allow.addresses"),
    )
    return bool(before) and not _is_open(before) and _when("ip_allow.protected_only", _is_and_was_not)(item)


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many addresses, each counted once."""
    total, reached = 0, -1
    for first, last in sorted(spans):
        total += max(0, last - max(first, reached + 1) + 1)
        reached = max(reached, last)
    return total


def _takes_fewer(old: Value | None, new: Value | None) -> bool:
    """Something of the old schedule has nothing in the new one that comes as often and is kept for as long."""
    before, after = (list(map(schedule_item, it)) if isinstance(it, list) else [] for it in (old, new))

    def covers(item: Mapping[str, str | int], other: Mapping[str, str | int]) -> bool:
        kept = [float(it.get("retention_seconds", "inf")) for it in (item, other)]
        return item["frequency"] == other["frequency"] and kept[0] >= kept[1]

    return any(not any(covers(each, gone) for each in after) for gone in before)


def _lifts(old: Value | None, new: Value | None) -> bool:
    before, after = (set(it) if isinstance(it, list) else set() for it in (old, new))
    return not KEPT.isdisjoint(before - after)


def _higher(old: Value | None, new: Value | None) -> bool:
    """Roles, of which the highest is the last; None is no role at all."""
    before, after = (MEMBER_ROLES.index(it) if isinstance(it, str) and it in MEMBER_ROLES else -1 for it in (old, new))
    return after > before


def _grants_more(old: Value | None, new: Value | None) -> bool:
    before, after = (it if isinstance(it, dict) else {} for it in (old, new))
    return any(_higher(before.get(each), role) for each, role in after.items())


def _makes_admin(old: Value | None, new: Value | None) -> bool:
    before, after = (it if isinstance(it, dict) else {"": it} for it in (old, new))
    return any(role == "admin" != before.get(each) for each, role in after.items())


def _is_lower_level(old: Value | None, new: Value | None) -> bool:
    return old is not None and AuditLevel(str(new)).is_lower_than(AuditLevel(str(old)))


def _is_less(old: Value | None, new: Value | None) -> bool:
    return _amount(new) < _amount(old)


def _is_more(old: Value | None, new: Value | None) -> bool:
    return old is not None and _amount(new) > _amount(old)


def _amount(value: Value | None) -> float:
    if value in (NEVER, FOREVER):
        return float("inf")
    return float(value) if isinstance(value, int | float) else float("-inf")


def _was_and_is_not(old: Value | None, new: Value | None) -> bool:
    return old is True and new is False


def _is_and_was_not(old: Value | None, new: Value | None) -> bool:
    return old is False and new is True


def _of_old(rule: Callable[[Item], bool]) -> Callable[[Item], bool]:
    """Only of what is there already."""
    return lambda item: item.action == CHANGE and not item.is_fresh and rule(item)


def _any(*rules: Callable[[Item], bool]) -> Callable[[Item], bool]:
    return lambda item: any(each(item) for each in rules)


def _ends_sooner(old: Value | None, new: Value | None) -> bool:
    return old is not None and new != NEVER and (old == NEVER or str(new) < str(old))


BUILT_IN: Final = (
    Rule("destroy", "it destroys something that holds data, or that clients connect to", _destroys),
    Rule(
        "expire",
        "an expiry deletes the branch by itself, without another plan",
        _of_old(_when("expires_at", _ends_sooner)),
    ),
    Rule("unprotect", "a protected branch can then be deleted and reset", _when("protected", _was_and_is_not)),
    Rule("lift-tags", "what is not pii or prod any more is held to less", _when("tags", _lifts)),
    Rule("open-to-all", "half of all addresses or more may knock then", _when("ip_allow.addresses", _lets_all_in)),
    Rule(
        "no-allow-list",
        "an empty allow list lets everybody knock",
        _when("ip_allow.addresses", lambda old, new: bool(old) and new == []),
    ),
    Rule(
        "narrow-allow-list",
        "the allow list then holds for protected branches alone",
        _narrows,
    ),
    Rule(
        "unblock",
        "the project can then be reached from outside",
        _when("block_public_connections", _was_and_is_not),
    ),
    Rule(
        "no-channel-binding",
        "whoever has a certificate that a client trusts can then sit between",
        _when("require_channel_binding", _was_and_is_not),
    ),
    Rule("lower-audit", "less of what clients do is recorded", _when("audit_level", _is_lower_level)),
    Rule(
        "shorten-history",
        "what lies further back can no longer be restored",
        _when("history_retention_seconds", lambda old, new: old is not None and _is_less(old, new)),
    ),
    Rule(
        "fewer-snapshots",
        "a snapshot that was taken by itself, or kept for so long, is no longer",
        _when("snapshots", _takes_fewer),
    ),
    Rule(
        "shorten-record",
        "what was recorded is erased sooner",
        _any(
            _when("audit_retention.statements_days", _is_less),
            _when("audit_retention.recordings_days", _is_less),
        ),
    ),
    Rule(
        "egress",
        "it opens a way out of the project's databases, or trusts somebody else at its end",
        lambda item: item.kind == "egress" and item.action != DESTROY,
    ),
    Rule(
        "grant-admin",
        "an admin may do everything with the project, or with the organization",
        _any(
            _when("role", _makes_admin, "permission", "member", "group"),
            _when("grants", _makes_admin, "service_account"),
        ),
    ),
    Rule(
        "machine",
        "something that nobody sits at may do more then",
        _any(
            lambda item: item.kind == "service_account" and item.action == CREATE,
            _when("role", _higher, "service_account"),
            _when("grants", _grants_more, "service_account"),
            _when("disabled", _was_and_is_not, "service_account"),
        ),
    ),
    Rule(
        "remove-account",
        "somebody, or a machine, can do nothing here any more",
        lambda item: item.kind in PEOPLE and item.action == DESTROY,
    ),
    Rule("no-passkeys", "privileged acts then need no passkey", _when("passkeys.required", _was_and_is_not)),
    Rule(
        "no-consents",
        "protected branches are then copied at one person's word, once somebody else has agreed to that",
        _when("consents.required", _was_and_is_not),
    ),
    Rule(
        "older-keys",
        "keys are rotated, or data encrypted anew, less often",
        _any(_when("keys.rotate_days", _is_more), _when("keys.reencrypt_days", _is_more)),
    ),
    Rule(
        "fewer-reviews",
        "rights are reviewed less often, or stay when nobody answers for them",
        _any(
            _when("access_reviews.every_days", _is_more),
            _when("access_reviews.unanswered_rights_lapse", _was_and_is_not),
        ),
    ),
    Rule("disable", "clients can no longer connect to it", _of_old(_when("disabled", _is_and_was_not))),
)


# ── a team's own ──


def parse_rules(file: str, content: bytes) -> list[Rule]:
    """`[[forbid]]` tables. Raises ConfigurationError."""
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{file} has more than {FILE_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(content.decode())
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    tables = document.pop("forbid", None)
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables) or document:
        raise ConfigurationError(f"{file}: a file of rules has [[forbid]] tables, and nothing else")
    rules = [_own(file, number, table) for number, table in enumerate(tables, 1)]
    ids = [rule.id for rule in (*BUILT_IN, *rules)]
    for each in ids:
        if ids.count(each) > 1:
            raise ConfigurationError(f"{file}: there are two rules {each!r}")
    return rules


def _own(file: str, number: int, table: dict[str, Any]) -> Rule:
    where = f"{file}: forbid {number}"
    if unknown := table.keys() - _OWN_WORDS:
        raise ConfigurationError(f"{where}: {', '.join(sorted(unknown))}: there is {', '.join(sorted(_OWN_WORDS))}")
    texts = {word: table.get(word, "*") for word in ("address", "setting", "value")}
    rule_id, reason = table.get("id"), table.get("reason")
    if not _is_id(rule_id) or not isinstance(reason, str) or not reason:
        raise ConfigurationError(f"{where}: it has an id of a-z, 0-9 and -, and a reason")
    if not all(isinstance(each, str) for each in texts.values()):
        raise ConfigurationError(f"{where}: address, setting and value are patterns with * and ?")
    actions = _words(where, "action", table, (CREATE, CHANGE, DESTROY))
    kinds = _words(where, "kind", table, tuple(KINDS))
    bounds = {word: table[word] for word in ("above", "below") if word in table}
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in bounds.values()):
        raise ConfigurationError(f"{where}: above and below are numbers")
    about_changes = any(word in table for word in ("setting", "value", "above", "below"))

    def fits(change: Change) -> bool:
        value = change.new
        if not fnmatch.fnmatchcase(change.path, texts["setting"]):
            return False
        if bounds and (isinstance(value, bool) or not isinstance(value, int | float)):
            return False
        if "above" in bounds and not value > bounds["above"]:
            return False
        if "below" in bounds and not value < bounds["below"]:
            return False
        return any(fnmatch.fnmatchcase(text, texts["value"]) for text in texts_of(value))

    def refuses(item: Item) -> bool:
        return (
            item.action in actions
            and item.kind in kinds
            and any(fnmatch.fnmatchcase(each, texts["address"]) for each in _addresses(item))
            and (not about_changes or any(map(fits, item.changes)))
        )

    return Rule(str(rule_id), reason, refuses)


def _addresses(item: Item) -> set[str]:
    """As a file has it and by the platform's names, each with the quotes that TOML wants around a name and without: no way
    of writing a thing is a way around a rule."""
    trails = (item.trail, item.known_as)
    return {address(each) for each in trails} | {".".join(f"{kind}.{name}" for kind, name in each) for each in trails}


def texts_of(value: Value | None) -> list[str]:
    """What a pattern is held against: of a list each of its items, of a table each `key=value`."""
    match value:
        case None:
            return []
        case bool():
            return ["true" if value else "false"]
        case list():
            return value
        case dict():
            return [f"{key}={each}" for key, each in value.items()]
        case _:
            return [str(value)]


def _is_id(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= _ID_CHARS_MAX
        and all(each in "abcdefghijklmnopqrstuvwxyz0123456789-" for each in value)
    )


def _words(where: str, word: str, table: dict[str, Any], possible: tuple[str, ...]) -> tuple[str, ...]:
    said = table.get(word, list(possible))
    words = [said] if isinstance(said, str) else said
    if not isinstance(words, list) or not words or not all(each in possible for each in words):
        raise ConfigurationError(f"{where}: {word} is one or several of {', '.join(possible)}")
    return tuple(words)
