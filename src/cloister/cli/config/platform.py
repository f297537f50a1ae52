"""What is there, as the API says it: the other side of a plan.

Only what a configuration speaks of is asked for, so that a key which may see no more than that is enough. What must stay
true: nothing here changes anything, and no password is asked for.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cloister.cli.api import Api, ApiError, Json, segment
from cloister.cli.config.nouns import FOREVER, KINDS, NEVER, FormError, Node, Settings, Value, schedule_text
from cloister.cli.failure import CommandError

ORGANIZATIONS: Final = "/users/me/organizations"
_RECORDS: Final = {"statements": "audit_retention.statements_days", "recordings": "audit_retention.recordings_days"}


def organization_id(api: Api, said: str) -> str:
    """The one that is named, the one that the key is of, or the only one."""
    if said:
        return said
    whose = api.get("/auth")
    if whose["auth_method"] == "api_key_org":
        return str(whose["account_id"])
    found = api.get(ORGANIZATIONS).get("organizations") or []
    if len(found) != 1:
        raise CommandError("there are several organizations: say `organization = ` in the file, or --org-id")
    return str(found[0]["id"])


class Platform:
    def __init__(self, api: Api, org_id: str) -> None:
        self._api = api
        self._org_id = org_id
        self.notes: list[str] = []
        """What somebody who reads the plan should know, and no step says."""
        self._leaves_out = False
        self._by_groups: dict[str, str] = {}
        """Who has a role that groups give, and whose groups."""

    def read(self, wanted: Node) -> Node:
        """As much as `wanted` speaks of. Raises CommandError where that may not be seen."""
        calls = {each.call for each in KINDS["organization"].settings if each.path in wanted.settings}
        settings = self._settings(calls)
        children: dict[str, tuple[Node, ...]] = {}
        for kind, people in (
            ("group", self.groups),
            ("member", self.members),
            ("service_account", self.service_accounts),
        ):
            if wanted.of(kind) or kind in wanted.whole:
                children[kind] = self._seen(kind, people, ())
        for each in wanted.of("member"):
            if each.name in self._by_groups:
                issuer = self._by_groups[each.name]
                raise CommandError(f"member {each.name} has a role by a group at {issuer}: it is changed there")
        children["project"] = tuple(self._project_for(wanted, each) for each in self.projects())
        return Node(kind="organization", name="", settings=settings, children=children)

    def read_all(self, *, project_ids: Iterable[str] = ()) -> Node:
        """All that may be seen. What may not is left out, with a note that says so."""
        self._leaves_out = True
        chosen = list(project_ids)
        listed = [each for each in self.projects() if not chosen or each["id"] in chosen]
        if missing := set(chosen) - {each["id"] for each in listed}:
            raise CommandError(f"the organization has no project {', '.join(sorted(missing))}")
        settings = {} if chosen else self._settings({each.call for each in KINDS["organization"].settings})
        names, ids = [each["name"] for each in listed], {each["id"] for each in listed}
        keys = {
            each["id"]: each["name"]
            if names.count(each["name"]) == 1 and each["name"] not in ids
            else f"{each['name']} {each['id']}"
            for each in listed
        }
        children: dict[str, tuple[Node, ...]] = {}
        if not chosen:
            children = self._people(keys)
        children["project"] = tuple(
            self._project(each, _EVERYTHING, key=keys[each["id"]] if keys[each["id"]] != each["name"] else "")
            for each in listed
        )
        whole = frozenset() if chosen else frozenset(children)
        return Node(kind="organization", name="", settings=settings, children=children, whole=whole)

    def _people(self, keys: Mapping[str, str]) -> dict[str, tuple[Node, ...]]:
        found = {
            "group": self._seen("group", self.groups, None),
            "member": self._seen("member", self.members, None),
            "service_account": self._seen("service_account", functools.partial(self.service_accounts, keys), None),
        }
        for issuer in sorted(set(self._by_groups.values())):
            count = list(self._by_groups.values()).count(issuer)
            self.notes.append(f"member: {count} with a role by a group at {issuer} are left out: it is changed there")
        return {kind: nodes for kind, nodes in found.items() if nodes is not None}

    def projects(self) -> list[Json]:
        return list(self._api.pages("/projects", "projects", org_id=self._org_id))

    # ── the organization ──

    def _settings(self, calls: Iterable[str]) -> dict[str, Value]:
        settings: dict[str, Value] = {}
        for call in sorted(calls):
            settings |= self._seen(_RECORDS.get(call, call), functools.partial(self.organization_settings, call), {})
        return settings

    def organization_settings(self, call: str) -> dict[str, Value]:
        base = f"/cloister/organizations/{segment(self._org_id)}"
        match call:
            case "keys":
                said = self._api.get(f"{base}/key_policy")
                never = said.get("reencrypt_days") or NEVER
                return {"keys.rotate_days": said["rotate_days"], "keys.reencrypt_days": never}
            case "passkeys":
                return {"passkeys.required": self._api.get(f"{base}/passkey_policy")["required"]}
            case "consents":
                return self._consents(f"{base}/consent_policy")
            case "access_reviews":
                return self._access_reviews(f"{base}/access_review_policy")
            case _:
                return self._retention(f"{base}/audit_retention", call)

    def _consents(self, path: str) -> dict[str, Value]:
        """What was said last, as of a retention."""
        said = self._api.get(path)
        if said.get("lift_asked_by"):
            self.notes.append(
                "consents.required = false: somebody else has to agree (cloister branches consent-policy)"
            )
        return {"consents.required": said["required"] and not said.get("lift_asked_by")}

    def _access_reviews(self, path: str) -> dict[str, Value]:
        try:
            said = self._api.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return {"access_reviews.every_days": NEVER}
        return {
            f"access_reviews.{word}": said[word] for word in ("every_days", "answer_days", "unanswered_rights_lapse")
        }

    def _retention(self, path: str, record: str) -> dict[str, Value]:
        """What was set last. What is shorter than before does not hold yet: until somebody else has agreed, and a week."""
        said = [
            each
            for each in self._api.get(path).get("retentions") or []
            if each["record"] == record and each["state"] != "over"
        ]
        if not said:
            return {_RECORDS[record]: FOREVER}
        last = max(said, key=lambda each: str(each["asked_at"]))
        days = last.get("days") or FOREVER
        if last["state"] != "holds":
            waits = "somebody else has to agree" if last["state"] == "asked" else f"it holds from {last['holds_from']}"
            self.notes.append(f"{_RECORDS[record]} = {days}: {waits} (cloister audit retention show)")
        return {_RECORDS[record]: days}

    # ── its people and machines ──

    def groups(self) -> tuple[Node, ...]:
        found = self._api.get(f"/cloister/organizations/{segment(self._org_id)}/groups").get("groups") or []
        return tuple(
            Node(
                kind="group",
                name=f"{each['issuer']}/{each['group']}",
                id=each["id"],
                settings=settings_of("group", each),
            )
            for each in found
        )

    def members(self) -> tuple[Node, ...]:
        """Without those whose role groups give: who is in a group is said elsewhere."""
        found = self._api.get(f"/organizations/{segment(self._org_id)}/members").get("members") or []
        people = [(each["user"]["email"].lower(), each["member"]) for each in found]
        self._by_groups = {email: it["by_groups_of"] for email, it in people if it.get("by_groups_of")}
        return tuple(
            Node(kind="member", name=email, id=it["id"], settings=settings_of("member", it))
            for email, it in people
            if email not in self._by_groups
        )

    def service_accounts(self, words: Mapping[str, str] | None = None) -> tuple[Node, ...]:
        """`words`: what projects are called here, by their id; else grants are of ids."""
        path = f"/cloister/organizations/{segment(self._org_id)}/service_accounts"
        return tuple(
            Node(kind="service_account", name=each["name"], id=each["id"], settings=_machine(each, words or {}))
            for each in self._api.get(path).get("service_accounts") or []
        )

    # ── projects ──

    def _project_for(self, wanted: Node, listed: Json) -> Node:
        """In full, if something wanted may be this one; by name otherwise."""
        for each in wanted.of("project"):
            if listed["id"] == each.id or (not each.id and listed["name"] in (each.name, each.was)):
                return self._project(listed, _asked(each))
        return Node(kind="project", name=listed["name"], id=listed["id"], key=f"{listed['name']} {listed['id']}")

    def _project(self, listed: Json, asked: frozenset[str], *, key: str = "") -> Node:
        path = f"/projects/{segment(listed['id'])}"
        settings = settings_of("project", listed)
        if "audit_level" in asked:
            settings |= self._seen(
                "audit_level", functools.partial(self.audit_level, listed["id"]), {}, within=listed["name"]
            )
        children: dict[str, tuple[Node, ...]] = {}
        for kind, read in (("egress", self.egress), ("permission", self.permissions)):
            if kind in asked:
                children[kind] = self._seen(kind, functools.partial(read, listed["id"]), (), within=listed["name"])
        branches = list(self._api.pages(f"{path}/branches", "branches"))
        by_id = {each["id"]: each["name"] for each in branches}
        settings |= {"default_branch": each["name"] for each in branches if each.get("default")}  # noqa: B035 - there is one
        endpoints: list[Json] = self._api.get(f"{path}/endpoints").get("endpoints") or []
        children["branch"] = tuple(
            self._branch(path, each, by_id, [it for it in endpoints if it["branch_id"] == each["id"]], asked)
            for each in branches
        )
        return Node(
            kind="project",
            name=listed["name"],
            key=key,
            id=listed["id"],
            settings=settings,
            children=children,
            whole=frozenset(children),
        )

    def _branch(
        self, project: str, branch: Json, names: Mapping[str, str], endpoints: list[Json], asked: frozenset[str]
    ) -> Node:
        path = f"{project}/branches/{segment(branch['id'])}"
        children: dict[str, tuple[Node, ...]] = {}
        writers = [each for each in endpoints if each["type"] == "read_write"]
        readers = sorted(
            (each for each in endpoints if each["type"] == "read_only"),
            key=lambda each: (each["created_at"], each["id"]),
        )
        settings = _branch_settings(branch, names)
        if "snapshots" in asked:
            read = functools.partial(self.snapshots, project, branch["id"])
            settings |= self._seen("snapshots", read, {}, within=branch["name"])
        children["compute"] = tuple(self._endpoint("compute", "compute", each) for each in writers)
        children["reader"] = tuple(self._endpoint("reader", str(n), each) for n, each in enumerate(readers, 1))
        if "role" in asked:
            found = self._api.get(f"{path}/roles").get("roles") or []
            children["role"] = tuple(
                Node(
                    kind="role", name=each["name"], settings={"login": each.get("authentication_method") != "no_login"}
                )
                for each in found
            )
            found = self._api.get(f"{path}/databases").get("databases") or []
            children["database"] = tuple(
                Node(kind="database", name=each["name"], settings=settings_of("database", each)) for each in found
            )
        return Node(
            kind="branch",
            name=branch["name"],
            id=branch["id"],
            settings=settings,
            children=children,
            whole=frozenset(children),
        )

    @staticmethod
    def _endpoint(kind: str, name: str, endpoint: Json) -> Node:
        return Node(kind=kind, name=name, id=endpoint["id"], settings=settings_of(kind, endpoint))

    def default_branch(self, project_id: str) -> dict[str, Value]:
        found = self._api.pages(f"/projects/{segment(project_id)}/branches", "branches")
        return {"default_branch": each["name"] for each in found if each.get("default")}  # noqa: B035 - there is one

    def snapshots(self, project: str, branch_id: str) -> dict[str, Value]:
        said = self._api.get(f"{project}/branches/{segment(branch_id)}/backup_schedule").get("schedule") or []
        return {"snapshots": sorted({schedule_text(each) for each in said})}

    def audit_level(self, project_id: str) -> dict[str, Value]:
        return {"audit_level": self._api.get(f"/cloister/projects/{segment(project_id)}/audit_level")["level"]}

    def egress(self, project_id: str) -> tuple[Node, ...]:
        found = self._api.get(f"/cloister/projects/{segment(project_id)}/egress").get("egress_rules") or []
        return tuple(
            Node(kind="egress", name=each["to"], id=each["id"], settings=settings_of("egress", each)) for each in found
        )

    def permissions(self, project_id: str) -> tuple[Node, ...]:
        found = self._api.get(f"/projects/{segment(project_id)}/permissions").get("project_permissions") or []
        return tuple(
            Node(
                kind="permission",
                name=each["granted_to_email"].lower(),
                id=each["id"],
                settings=settings_of("permission", each),
            )
            for each in found
        )

    def _seen(self, what: str, read: Callable[[], Any], without: Any, *, within: str = "") -> Any:
        """In an export, what may not be seen is left out. A plan that asks for it fails, and says of what."""
        try:
            return read()
        except ApiError as error:
            if error.status != 403:
                raise
            place = f"{within + ': ' if within else ''}{what}"
            if not self._leaves_out:
                raise CommandError(f"{place} may not be seen with this key: {error}") from error
            self.notes.append(f"{place} is left out: {error}")
            return without


def _branch_settings(branch: Json, names: Mapping[str, str]) -> dict[str, Value]:
    parent = names.get(branch.get("parent_id") or "")
    return ({} if parent is None else {"parent": parent}) | settings_of("branch", branch)


def _machine(account: Json, words: Mapping[str, str]) -> dict[str, Value]:
    grants = {words.get(each["project_id"], each["project_id"]): each["role"] for each in account["grants"]}
    said: dict[str, Value] = {
        "grants": dict(sorted(grants.items())),
        "disabled": account.get("disabled_at") is not None,
    }
    return settings_of("service_account", account) | said


def settings_of(kind: str, thing: Json) -> dict[str, Value]:
    """What the API says of a thing, as a file would say it."""
    settings: dict[str, Value] = {}
    for setting in KINDS[kind].settings:
        if not setting.at:
            continue
        value: Any = thing
        for word in setting.at.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        try:
            settings[setting.path] = setting.form(value)
        except FormError:
            if value is not None:  # of another version than ours: shown as it is, and no file can say it
                settings[setting.path] = value
    return settings


def body_of(kind: str, settings: Settings, *, nulls: bool = False) -> Json:
    """The settings where the API has them, but for those with a call of their own. `nulls`: what never is has to be said."""
    body: Json = {}
    for setting in KINDS[kind].settings:
        if not setting.at or setting.call != "itself" or setting.path not in settings:
            continue
        value = or_none(settings[setting.path], NEVER)
        if value is None and not nulls:
            continue
        inner = body
        *groups, last = setting.at.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return body


def or_none(value: Any, word: str) -> Any:
    return None if value == word else value


_EVERYTHING: Final = frozenset({"audit_level", "egress", "permission", "role", "snapshots"})


def _asked(wanted: Node) -> frozenset[str]:
    """Of what takes a call of its own, what the project speaks of."""
    asked = {kind for kind in ("egress", "permission") if wanted.of(kind) or kind in wanted.whole}
    if "audit_level" in wanted.settings:
        asked.add("audit_level")
    branches = wanted.of("branch")
    if any(each.of(kind) or kind in each.whole for each in branches for kind in ("role", "database")):
        asked.add("role")
    if any("snapshots" in each.settings for each in branches):
        asked.add("snapshots")
    return frozenset(asked)
