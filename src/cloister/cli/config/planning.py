"""From what is wanted and what is there to a plan: what would be made, changed and destroyed, in the order in which the
API takes it. Pure.

What must stay true: of two equal states the plan is empty; every step's `old` is what the platform said, so that a plan
whose hash is the same means the same; and what a plan cannot do stands in `problems`, which nobody may pass.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cloister.cli.config.nouns import KINDS, NEVER, Node, Settings, Trail, Value, address, toml_key

CREATE: Final = "create"
CHANGE: Final = "change"
DESTROY: Final = "destroy"

NAME: Final = "name"
"""The path of a change that gives a thing another name."""

_FIRST_BRANCH: Final = "main"
_FIRST_ROLE: Final = "neondb_owner"
_FIRST_DATABASE: Final = "neondb"
# What a project is made with where its file does not say.


@dataclass(frozen=True, slots=True)
class Change:
    path: str
    old: Value | None
    """None: it was not there, or the API does not say."""
    new: Value | None
    """None: of something that is destroyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One call of the API."""

    action: str
    kind: str
    trail: Trail
    call: str = "itself"
    id: str = ""
    """Of the thing on the platform."""
    changes: tuple[Change, ...] = ()
    settings: Settings = field(default_factory=dict)
    """All that the call says, what stays included; of what is destroyed, all that it had."""
    is_fresh: bool = False
    """It is about something that is made by the same plan."""
    first: tuple[str, str, str] = ("", "", "")
    """Of a new project: its branch, role and database."""
    known_as: Trail = ()
    """Where it is by the names that the platform has for it now, whatever a file calls it."""

    @property
    def address(self) -> str:
        return address(self.trail)

    @property
    def name(self) -> str:
        return self.trail[-1][1] if self.trail else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "kind": self.kind,
            "address": self.address,
            "id": self.id,
            "changes": [{"path": each.path, "old": each.old, "new": each.new} for each in self.changes],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    organization_id: str
    items: tuple[Item, ...]
    problems: tuple[str, ...] = ()
    ids: Mapping[Trail, str] = field(default_factory=dict)
    """Of what is there already, by where the plan has it."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Of projects that are there, by their ids: what the plan calls them where it speaks of grants."""

    @property
    def hash(self) -> str:
        """Of what would be done to what: also of ids and of what was there before."""
        said = [self.organization_id, [[*each.trail, each.call, each.as_json()] for each in self.items]]
        return hashlib.sha256(json.dumps(said, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def plan(organization_id: str, wanted: Node, there: Node) -> Plan:
    planner = _Planner()
    planner.organization(wanted, there)
    return Plan(organization_id, tuple(planner.items), tuple(planner.problems), planner.ids, planner.words)


class _Planner:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.problems: list[str] = []
        self.ids: dict[Trail, str] = {}
        self.words: dict[str, str] = {}
        self._names: dict[Trail, str] = {}

    def organization(self, wanted: Node, there: Node) -> None:
        """People come first and go last: a permission and an account for a machine are somebody's."""
        self._settings(wanted, there, (), is_fresh=False)
        unmapped = self._leaves("group", wanted, there, (), is_fresh=False)
        leaving = self._leaves("member", _admins_first(wanted), there, (), is_fresh=False)
        pairs, others = self._matched("project", wanted, there, ())
        for project, found in pairs:
            self._project(project, found)
        self._destroy(self._machines(wanted, there, pairs, others), (), is_fresh=False)
        self._destroy(others, (), is_fresh=False)
        self._refuse_to_part(wanted, leaving)
        self._destroy(leaving, (), is_fresh=False)
        self._destroy(unmapped, (), is_fresh=False)

    # ── people and machines ──

    def _machines(
        self, wanted: Node, there: Node, pairs: Sequence[tuple[Node, Node | None]], others: Sequence[Node]
    ) -> Sequence[Node]:
        """After the projects, which a grant may be of. Returns what is to be destroyed."""
        words = self._words(there, pairs)
        going = {self.words[each.id] for each in others}
        accounts = []
        for account in wanted.of("service_account"):
            place: Trail = (("service_account", account.name),)
            grants = account.settings.get("grants")
            named = list(grants) if isinstance(grants, dict) else []
            for each in named:
                if each not in words:
                    self._problem(place, f"it is granted {each!r}, and there is no such project")
                elif words[each] in going:
                    self._problem(place, f"it is granted {each!r}, which would be destroyed")
            if len({words.get(each, each) for each in named}) < len(named):
                self._problem(place, "it is granted one project twice")
            accounts.append(_granted(account, words))
        found = tuple(_granted(each, self.words) for each in there.of("service_account"))
        return self._leaves(
            "service_account",
            replace(wanted, children={"service_account": tuple(accounts)}),
            replace(there, children={"service_account": found}),
            (),
            is_fresh=False,
        )

    def _words(self, there: Node, pairs: Sequence[tuple[Node, Node | None]]) -> Mapping[str, str]:
        """From whatever a grant may call a project (as the file does, by its name, by its id) to one word for each. An id is
        that project's, whatever another is called: a name can be given to any."""
        ids = {each.id for each in there.of("project")}
        names = [each.name for each in there.of("project")]
        told = {each.name: each.id for each in there.of("project") if names.count(each.name) == 1}
        called = {
            each.id: each.name if each.name in told and each.name not in ids else each.id
            for each in there.of("project")
        }
        called |= {found.id: project.word for project, found in pairs if found is not None and project.word not in ids}
        self.words |= called
        wanted = [project.name for project, _ in pairs]
        new_names = {project.name: project.word for project, _ in pairs if wanted.count(project.name) == 1}
        own_words = {project.word: project.word for project, _ in pairs}
        return {**{name: called[told[name]] for name in told}, **new_names, **own_words, **called}

    def _refuse_to_part(self, wanted: Node, leaving: Sequence[Node]) -> None:
        gone = {each.name for each in leaving}
        for account in wanted.of("service_account"):
            if account.settings.get("owner") in gone:
                self._problem(
                    (("service_account", account.name),), f"{account.settings['owner']} owns it, and would go"
                )
        for project in wanted.of("project"):
            for each in project.of("permission"):
                if each.name in gone:
                    place = (("project", project.word), ("permission", each.name))
                    self._problem(place, "who has it would go from the organization")

    def _project(self, wanted: Node, there: Node | None) -> None:
        trail: Trail = (("project", wanted.word),)
        is_fresh = there is None
        if there is None:
            there = self._new_project(wanted, trail)
        renames = self._settings(wanted, there, trail, is_fresh=is_fresh, later=("default_branch",))
        for kind in ("egress", "permission"):
            destroyed = self._leaves(kind, wanted, there, trail, is_fresh=is_fresh)
            self._destroy(destroyed, trail, is_fresh=is_fresh)
        self._branches(wanted, there, trail, renames, is_fresh=is_fresh)

    def _new_project(self, wanted: Node, trail: Trail) -> Node:
        """What there is once it is made: what it was made with, and what the API gives every new project."""
        branch = self._first_branch(wanted, trail)
        database = next(iter(branch.of("database")), Node(kind="database", name=_FIRST_DATABASE))
        role = next((each.name for each in branch.of("role")), _FIRST_ROLE)
        role = str(database.settings.get("owner", role))
        own = {each.path for each in KINDS["project"].settings if each.call == "itself"}
        settings = {path: value for path, value in wanted.settings.items() if path in own}
        changes = (*_named(wanted), *_made(settings))
        first = (branch.name, role, database.name)
        self._names[trail] = wanted.name
        self._add(CREATE, "project", trail, changes=changes, settings=settings, first=first)
        made = Node(
            kind="branch",
            name=branch.name,
            settings={"protected": False, "expires_at": NEVER, "snapshots": [], "tags": []},
            children={
                "compute": (Node(kind="compute", name="compute"),),
                "role": (Node(kind="role", name=role, settings={"login": True}),),
                "database": (Node(kind="database", name=database.name, settings={"owner": role}),),
            },
        )
        settings = settings | {"default_branch": branch.name, "tags": []}
        return replace(wanted, was="", settings=settings, children={"branch": (made,)})

    def _first_branch(self, wanted: Node, trail: Trail) -> Node:
        roots = [each for each in wanted.of("branch") if "parent" not in each.settings]
        if len(roots) > 1:
            names = ", ".join(toml_key(each.name) for each in roots)
            self._problem(trail, f"a new project has one branch without a parent, not {names}")
        return roots[0] if roots else Node(kind="branch", name=_FIRST_BRANCH)

    # ── branches ──

    def _branches(self, wanted: Node, there: Node, trail: Trail, own: Iterable[Change], *, is_fresh: bool) -> None:
        pairs, others = self._matched("branch", wanted, there, trail)
        renamed = {found.name: branch.name for branch, found in pairs if found is not None}
        inside = {renamed.get(found.name, found.name): found for found in there.of("branch")}
        """What branches have, by the name that they are to have: what a child begins with."""
        self.ids.update({(*trail, ("branch", name)): found.id for name, found in inside.items()})
        for branch, before in self._in_order(pairs, renamed, trail):
            place = (*trail, ("branch", branch.name))
            found = self._new_branch(branch, inside, place) if before is None else _with_parent(before, renamed)
            if found is not None:
                inside[branch.name] = self._branch(branch, found, place, is_fresh=before is None or is_fresh)
        default = self._default_branch(there, trail, own, renamed, inside, is_fresh=is_fresh)
        self._refuse_uprooting(others, inside, default, trail)
        self._destroy(_children_first(others), trail, is_fresh=is_fresh)

    def _new_branch(self, wanted: Node, inside: Mapping[str, Node], trail: Trail) -> Node | None:
        parent = wanted.settings.get("parent")
        if parent is None:
            self._problem(trail, "it is not there, and its parent is not said")
            return None
        if str(parent) not in inside:
            self._problem(trail, f"it is not there, and its parent {parent!r} neither")
            return None
        begins_with = inside[str(parent)]
        said = {
            path: value for path, value in wanted.settings.items() if KINDS["branch"].by_path[path].call == "itself"
        }
        inherited = {"tags": begins_with.settings.get("tags", [])}
        settings = {"protected": False, "expires_at": NEVER, "snapshots": [], **inherited, **said}
        self._add(CREATE, "branch", trail, changes=_made(said), settings=said)
        copied = {kind: begins_with.of(kind) for kind in ("role", "database")}
        return replace(wanted, was="", settings=settings, children=copied)

    def _branch(self, wanted: Node, there: Node, trail: Trail, *, is_fresh: bool) -> Node:
        """Returns what is in it afterwards."""
        self._settings(wanted, there, trail, is_fresh=is_fresh)
        gone: dict[str, Sequence[Node]] = {}
        # A compute makes the roles, and a database has one of them as its owner.
        for kind in ("compute", "reader", "role", "database"):
            gone[kind] = self._leaves(kind, wanted, there, trail, is_fresh=is_fresh)
        for kind in ("database", "role", "reader", "compute"):
            self._destroy(list(reversed(gone[kind])), trail, is_fresh=is_fresh)
        after = {kind: _after(wanted, there, kind, gone[kind]) for kind in ("role", "database")}
        for role in gone["role"]:
            owned = [each.name for each in after["database"] if each.settings.get("owner") == role.name]
            if owned:
                self._problem(
                    (*trail, ("role", role.name)), f"it would be destroyed, and owns {', '.join(map(toml_key, owned))}"
                )
        tags = {path: value for path, value in wanted.settings.items() if path == "tags"}
        return replace(there, name=wanted.name, settings={**there.settings, **tags}, children=after)

    def _refuse_uprooting(
        self, others: Sequence[Node], inside: Mapping[str, Node], default: Value | None, trail: Trail
    ) -> None:
        going = {each.name for each in others}
        if default in going:
            self._problem((*trail, ("branch", str(default))), "it would be destroyed, and is the default branch")
        for name, branch in inside.items():
            if branch.settings.get("parent") in going and name not in going:
                place = (*trail, ("branch", str(branch.settings["parent"])))
                self._problem(place, f"it would be destroyed, and {toml_key(name)} grows out of it")

    def _default_branch(
        self,
        there: Node,
        trail: Trail,
        own: Iterable[Change],
        renamed: Mapping[str, str],
        inside: Mapping[str, Node],
        *,
        is_fresh: bool,
    ) -> Value | None:
        """After the branches: the wanted one may have been made or renamed meanwhile, and the old one may go then. Returns
        which it is in the end."""
        before = there.settings.get("default_branch")
        default: Value | None = renamed.get(str(before), before) if before is not None else None
        for change in own:
            now = renamed.get(str(change.old), change.old)
            if change.new == now:
                continue
            if change.new not in inside:
                self._problem(trail, f"its default branch is to be {change.new!r}, which is not there")
                continue
            self._add(
                CHANGE,
                "project",
                trail,
                call="default_branch",
                id=there.id,
                changes=(replace(change, old=now),),
                settings={"default_branch": str(change.new)},
                is_fresh=is_fresh,
            )
            default = change.new
        return default

    def _in_order(
        self, pairs: Sequence[tuple[Node, Node | None]], renamed: Mapping[str, str], trail: Trail
    ) -> list[tuple[Node, Node | None]]:
        """Parents before their children."""
        waiting = {branch.name: (branch, found) for branch, found in pairs}
        ordered: list[tuple[Node, Node | None]] = []

        def parent_of(branch: Node, found: Node | None) -> str:
            said = branch.settings.get("parent") if found is None else found.settings.get("parent", "")
            return renamed.get(str(said), str(said or ""))

        while waiting:
            ready = [name for name, pair in waiting.items() if parent_of(*pair) not in waiting]
            if not ready:
                self._problem(trail, f"branches are each other's parents: {', '.join(map(toml_key, sorted(waiting)))}")
                break
            ordered += [waiting.pop(name) for name in ready]
        return ordered

    # ── any kind ──

    def _leaves(self, kind: str, wanted: Node, there: Node, trail: Trail, *, is_fresh: bool) -> Sequence[Node]:
        """Makes and changes; returns what is to be destroyed."""
        pairs, others = self._matched(kind, wanted, there, trail)
        for leaf, found in pairs:
            place = (*trail, (kind, leaf.name))
            if found is None:
                made = _made(leaf.settings)
                for setting in KINDS[kind].settings:
                    if setting.is_needed and setting.path not in leaf.settings:
                        self._problem(place, f"it is not there, and its {setting.path} is not said")
                self._add(CREATE, kind, place, changes=made, settings=leaf.settings, is_fresh=is_fresh)
            else:
                self._settings(leaf, found, place, is_fresh=is_fresh)
        return others

    def _matched(
        self, kind: str, wanted: Node, there: Node, trail: Trail
    ) -> tuple[list[tuple[Node, Node | None]], Sequence[Node]]:
        """Each wanted child with the one that is there; and, where the wanted ones are to be all, the others."""
        found = there.of(kind)
        taken: set[int] = set()
        pairs: list[tuple[Node, Node | None]] = []
        for child in wanted.of(kind):
            place = (*trail, (kind, child.word))
            candidates = _candidates(child, found)
            if len(candidates) > 1:
                self._problem(place, "it is there more than once: say its id")
                continue
            if child.id and not candidates:
                self._problem(place, f"there is none with the id {child.id}")
                continue
            if candidates and candidates[0] in taken:
                self._problem(place, "something else of this file is the same thing")
                continue
            taken.update(candidates)
            pairs.append((child, found[candidates[0]] if candidates else None))
            for number in candidates:
                self.ids[place], self._names[place] = found[number].id, found[number].name
        others = [each for number, each in enumerate(found) if number not in taken] if kind in wanted.whole else []
        return pairs, others

    def _settings(
        self, wanted: Node, there: Node, trail: Trail, *, is_fresh: bool, later: Sequence[str] = ()
    ) -> list[Change]:
        """A step for each call that something differs for; what is for later comes back."""
        by_call: dict[str, list[Change]] = {}
        if wanted.name != there.name:
            by_call["itself"] = [Change(NAME, there.name, wanted.name)]
        for setting in KINDS[wanted.kind].settings:
            new, old = wanted.settings.get(setting.path), there.settings.get(setting.path)
            if new is None or new == old:
                continue
            if setting.is_fixed:
                self._problem(trail, f"{setting.path} is {old!r} and cannot become {new!r}")
            else:
                by_call.setdefault(setting.call, []).append(Change(setting.path, old, new))
        for call, changes in by_call.items():
            if call in later:
                continue
            paths = [each.path for each in KINDS[wanted.kind].settings if each.call == call]
            said = {**there.settings, **wanted.settings}
            self._add(
                CHANGE,
                wanted.kind,
                trail,
                call=call,
                id=there.id,
                changes=tuple(changes),
                settings={path: said[path] for path in paths if path in said},
                is_fresh=is_fresh,
            )
        return [change for call in later for change in by_call.get(call, [])]

    def _destroy(self, nodes: Iterable[Node], trail: Trail, *, is_fresh: bool) -> None:
        for node in nodes:
            place = (*trail, (node.kind, node.word))
            self.ids[place] = node.id
            self._add(DESTROY, node.kind, place, id=node.id, settings=node.settings, is_fresh=is_fresh)

    def _add(self, action: str, kind: str, trail: Trail, **more: Any) -> None:
        prefixes = [trail[: length + 1] for length in range(len(trail))]
        known_as = tuple((each[-1][0], self._names.get(each, each[-1][1])) for each in prefixes)
        self.items.append(Item(action=action, kind=kind, trail=trail, known_as=known_as, **more))

    def _problem(self, trail: Trail, why: str) -> None:
        self.problems.append(f"{address(trail)}: {why}")


def _admins_first(wanted: Node) -> Node:
    """There is no moment without an admin."""
    members = sorted(wanted.of("member"), key=lambda each: each.settings.get("role") != "admin")
    return replace(wanted, children={**wanted.children, "member": tuple(members)})


def _granted(account: Node, words: Mapping[str, str]) -> Node:
    """By the words that the plan has for projects."""
    grants = account.settings.get("grants")
    if not isinstance(grants, dict):
        return account
    said = dict(sorted((words.get(each, each), role) for each, role in grants.items()))
    return replace(account, settings={**account.settings, "grants": said})


def _candidates(child: Node, found: Sequence[Node]) -> list[int]:
    """Places in `found`. A thing that is to be renamed is found by either name: the plan may have been begun before."""
    if child.id:
        return [number for number, each in enumerate(found) if each.id == child.id]
    names = {child.name, child.was} - {""}
    return [number for number, each in enumerate(found) if each.name in names]


def _with_parent(branch: Node, renamed: Mapping[str, str]) -> Node:
    """Its parent by the name that it is to have."""
    parent = branch.settings.get("parent")
    if not isinstance(parent, str) or parent not in renamed:
        return branch
    return replace(branch, settings={**branch.settings, "parent": renamed[parent]})


def _named(wanted: Node) -> tuple[Change, ...]:
    """Where a file calls it otherwise."""
    return (Change(NAME, None, wanted.name),) if wanted.word != wanted.name else ()


def _made(settings: Settings) -> tuple[Change, ...]:
    return tuple(Change(path, None, value) for path, value in settings.items())


def _after(wanted: Node, there: Node, kind: str, gone: Sequence[Node]) -> tuple[Node, ...]:
    """What there is of a kind once the plan was carried out."""
    after = {each.name: each for each in there.of(kind) if each not in gone}
    for each in wanted.of(kind):
        before = after.pop(each.was, None) or after.get(each.name)
        after[each.name] = replace(each, was="", settings={**(before.settings if before else {}), **each.settings})
    return tuple(after.values())


def _children_first(branches: Sequence[Node]) -> list[Node]:
    depth: dict[str, int] = {}
    by_name = {each.name: each for each in branches}

    def of(name: str) -> int:
        if name not in by_name:
            return 0
        if name not in depth:
            depth[name] = 0  # a ring cannot be, and must not hang
            depth[name] = 1 + of(str(by_name[name].settings.get("parent", "")))
        return depth[name]

    return sorted(branches, key=lambda each: (-of(each.name), each.name))
