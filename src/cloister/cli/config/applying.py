"""Has a plan carried out: a call of the API for each step, in the plan's order, waiting for what each begins.

What must stay true: a step is only taken while the platform is as it was when the plan was made, which is looked at right before,
and the platform holds the call to the version that was seen; the first failure ends it all; and what is done already is done, so that making a plan again goes on from there. A password that an answer holds is
dropped: nobody sees it, and whoever needs one resets it.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cloister.base.versions import MOVED
from cloister.cli.api import Api, ApiError, Json, segment
from cloister.cli.config.nouns import NEVER, Settings, Trail, Value, address, schedule_item
from cloister.cli.config.planning import CHANGE, CREATE, DESTROY, NAME, Item, Plan
from cloister.cli.config.platform import Platform, body_of, or_none, settings_of
from cloister.cli.failure import CommandError
from cloister.cli.waiting import wait_for

CREATION_S: Final = 3600
# For so long, the same step of the same plan is the same creation. No apply takes as long; and where the platform died with a
# creation under way, which it then refuses to repeat, another hour's apply may.


UNSEEN_KEY_DAYS: Final = 1
# Of the key that comes with an account for a machine and that nobody sees: no account is without one, and none ends earlier.


class MovedError(CommandError):
    """The platform is no longer as it was when the plan was made."""


class Applier:
    def __init__(
        self,
        api: Api,
        platform: Platform,
        plan: Plan,
        *,
        wait: Callable[[Api, Iterable[Json]], None] = wait_for,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._platform = platform
        self._plan = plan
        self._wait = wait
        self._clock = clock
        self._ids: dict[Trail, str] = dict(plan.ids)
        api.versions = {}

    def take(self, item: Item) -> None:
        """One step. Raises MovedError, ApiError, CommandError."""
        if item.action == CHANGE or (item.action == DESTROY and not item.is_fresh):
            self._require_unmoved(item)
        try:
            answer = self._taken(item)
        except ApiError as error:
            if error.code != MOVED:
                raise
            raise MovedError(f"{item.address} was changed while the step was taken: make another plan") from error
        self._wait(self._api, answer.get("operations") or [])

    def _taken(self, item: Item) -> Json:
        match item.kind, item.action:
            case "organization", _:
                return self._change_organization(item)
            case _, "change" if item.call == "tags":
                return self._change_tags(item)
            case "project", "create":
                return self._create_project(item)
            case "project", "change":
                return self._change_project(item)
            case "group", action:
                return self._set_group(item, action)
            case "member", action:
                return self._set_member(item, action)
            case "service_account", action:
                return self._set_service_account(item, action)
            case "egress", action:
                return self._set_egress(item, action)
            case "permission", action:
                return self._set_permission(item, action)
            case "branch", "change" if item.call == "snapshots":
                return self._set_snapshots(item)
            case "branch", "create":
                return self._create_branch(item)
            case "compute" | "reader", "create":
                return self._create_endpoint(item)
            case "role", "create":
                return self._create_role(item)
            case "database", "create":
                return self._create_database(item)
            case kind, "change":
                return self._api.patch(self._path(item), {_OBJECTS.get(kind, kind): _changed(item)})
            case _:  # a project and a branch can be recovered for seven days
                return self._api.delete(self._path(item))

    # ── is it still so? ──

    def _require_unmoved(self, item: Item) -> None:
        try:
            now = self._now(item)
        except ApiError as error:
            if error.status != 404:
                raise
            raise MovedError(f"{item.address} is gone since the plan was made: make another plan") from None
        before = {change.path: change.old for change in item.changes}
        if item.kind == "organization":  # what is put there says all that the call is about, what stays included
            before = {**item.settings, **before}
        if item.action == DESTROY:  # as the plan showed it, as far as it is told again
            before = {path: value for path, value in item.settings.items() if path in now}
        for path, old in before.items():
            if old is not None and now.get(path) != old:
                raise MovedError(
                    f"{item.address}: {path} is {now.get(path)!r} and was {old!r} when the plan was made: make another plan"
                )

    def _now(self, item: Item) -> Mapping[str, Value]:
        match item.kind, item.call:
            case "organization", call:
                return self._platform.organization_settings(call)
            case "project", "audit_level":
                return self._platform.audit_level(self._id(item.trail))
            case "project", "default_branch":
                return self._platform.default_branch(self._id(item.trail))
            case "branch", "snapshots":
                return self._platform.snapshots(self._project_path(item), self._id(item.trail))
            case "group", _:
                return _of_listed(item, self._platform.groups())
            case "member", _:
                return _of_listed(item, self._platform.members())
            case "service_account", _:
                return _of_listed(item, self._platform.service_accounts(self._plan.words))
            case "egress", _:
                return _of_listed(item, self._platform.egress(self._id(item.trail[:1])))
            case "permission", _:
                return _of_listed(item, self._platform.permissions(self._id(item.trail[:1])))
            case kind, _:
                thing: Json = self._api.get(self._path(item))[_OBJECTS.get(kind, kind)]
                return {NAME: thing.get("name", "")} | settings_of(kind, thing)

    # ── the organization ──

    def _change_organization(self, item: Item) -> Json:
        reason = f"configuration, plan {self._plan.hash[:12]}"
        return put_settings(self._api, self._plan.organization_id, item.call, item.settings, reason)

    def _set_group(self, item: Item, action: str) -> Json:
        """Mapped again, it gives the other role."""
        path = f"/cloister/organizations/{segment(self._plan.organization_id)}/groups"
        if action == DESTROY:
            return self._api.delete(f"{path}/{segment(item.id)}")
        issuer, _, group = item.name.partition("/")
        return self._api.post(path, {"issuer": issuer, "group": group, **body_of("group", item.settings)})

    def _set_member(self, item: Item, action: str) -> Json:
        base = f"/organizations/{segment(self._plan.organization_id)}"
        if action == CREATE:
            invitation = {"email": item.name, **body_of("member", item.settings)}
            return self._api.post(f"{base}/invitations", {"invitations": [invitation]})
        path = f"{base}/members/{segment(item.id)}"
        return self._api.delete(path) if action == DESTROY else self._api.patch(path, _changed(item))

    def _set_service_account(self, item: Item, action: str) -> Json:
        """The key that a new one comes with is dropped."""
        path = f"/cloister/organizations/{segment(self._plan.organization_id)}/service_accounts"
        if action == DESTROY:
            return self._api.delete(f"{path}/{segment(item.id)}")
        body = {**_changed(item), **self._grants(item)}
        disabled = {each.path: each.new for each in item.changes if each.path == "disabled"}
        if action != CREATE:
            return self._api.patch(f"{path}/{segment(item.id)}", body | disabled)
        made = self._api.post(path, {"name": item.name, "key_days": UNSEEN_KEY_DAYS, **body})["service_account"]
        return self._api.patch(f"{path}/{segment(made['id'])}", disabled) if disabled.get("disabled") else {}

    def _grants(self, item: Item) -> Json:
        """All of them, where something of them changes."""
        ids = {word: each for each, word in self._plan.words.items()}
        for change in item.changes:
            if change.path == "grants" and isinstance(change.new, dict):
                said = [(ids.get(word) or self._id((("project", word),)), role) for word, role in change.new.items()]
                return {"grants": [{"project_id": each, "role": role} for each, role in said]}
        return {}

    # ── projects ──

    def _create_project(self, item: Item) -> Json:
        name = next((str(each.new) for each in item.changes if each.path == NAME), item.name)
        self._require_no_other(name, item)
        branch, role, database = item.first
        body = {
            "name": name,
            "org_id": self._plan.organization_id,
            **body_of("project", item.settings),
            "branch": {"name": branch, "role_name": role, "database_name": database},
        }
        answer = self._create_once(
            "/projects", {"project": body}, item, lambda made: self._project(made["project"]["id"])
        )
        self._ids[item.trail] = answer["project"]["id"]
        place = (*item.trail, ("branch", branch))
        self._ids[place] = answer["branch"]["id"]
        self._ids[*place, ("compute", "compute")] = answer["endpoints"][0]["id"]
        return answer

    def _require_no_other(self, name: str, item: Item) -> None:
        """Projects may share a name, so the platform would make a second one."""
        known = {each for trail, each in self._ids.items() if len(trail) == 1}
        if any(each["name"] == name and each["id"] not in known for each in self._platform.projects()):
            raise MovedError(f"{item.address} was made since the plan was: make another plan")

    def _change_project(self, item: Item) -> Json:
        project_id = self._id(item.trail)
        match item.call:
            case "audit_level":
                level = {"level": item.settings["audit_level"]}
                return self._api.put(f"/cloister/projects/{segment(project_id)}/audit_level", level)
            case "default_branch":
                branch = self._id((*item.trail, ("branch", str(item.settings["default_branch"]))))
                return self._api.post(f"{self._project_path(item)}/branches/{segment(branch)}/set_as_default")
            case _:
                return self._api.patch(self._project_path(item), {"project": _changed(item)})

    def _change_tags(self, item: Item) -> Json:
        """What comes and what goes: whatever somebody else sets meanwhile stays."""
        (change,) = item.changes
        old, new = (set(it) if isinstance(it, list) else set() for it in (change.old, change.new))
        body = {
            "add": sorted(new - old),
            "remove": sorted(old - new),
            "reason": f"configuration, plan {self._plan.hash[:12]}",
        }
        return self._api.patch(f"/cloister{self._path(item)}/tags", body)

    def _set_egress(self, item: Item, action: str) -> Json:
        """The API changes none: it is removed and allowed again, and in between there is no way out."""
        path = f"/cloister{self._project_path(item)}/egress"
        if action != CREATE:
            answer = self._api.delete(f"{path}/{segment(item.id)}")
        if action != DESTROY:
            answer = self._api.post(path, {"to": item.name, **body_of("egress", item.settings)})
        return answer

    def _set_permission(self, item: Item, action: str) -> Json:
        path = f"{self._project_path(item)}/permissions"
        if action == DESTROY:
            return self._api.delete(f"{path}/{segment(item.id)}")
        return self._api.post(path, {"email": item.name, **body_of("permission", item.settings)})

    # ── branches and what is in them ──

    def _create_branch(self, item: Item) -> Json:
        parent = self._id((*item.trail[:1], ("branch", str(item.settings["parent"]))))
        body = {"name": item.name, "parent_id": parent, **body_of("branch", item.settings)}
        answer = self._api.post(f"{self._project_path(item)}/branches", {"branch": body})
        self._ids[item.trail] = answer["branch"]["id"]
        return answer

    def _set_snapshots(self, item: Item) -> Json:
        said = item.settings["snapshots"]
        assert isinstance(said, list)
        schedule = {"schedule": [schedule_item(each) for each in said]}
        return self._api.put(f"{self._branch_path(item)}/backup_schedule", schedule)

    def _create_endpoint(self, item: Item) -> Json:
        path = f"{self._project_path(item)}/endpoints"
        branch = self._id(item.trail[:2])
        if item.kind == "reader":
            there = self._api.get(path).get("endpoints") or []
            readers = sum(each["branch_id"] == branch and each["type"] == "read_only" for each in there)
            if readers != int(item.name) - 1:
                raise MovedError(f"{item.address}: the branch has {readers} readers now: make another plan")
        kind = "read_only" if item.kind == "reader" else "read_write"
        body = {"branch_id": branch, "type": kind, **body_of(item.kind, item.settings)}
        return self._create_once(
            path, {"endpoint": body}, item, lambda made: self._api.get(f"{path}/{segment(made['endpoint']['id'])}")
        )

    def _create_role(self, item: Item) -> Json:
        role = {"name": item.name, "no_login": item.settings.get("login") is False}
        return self._api.post(f"{self._branch_path(item)}/roles", {"role": role})

    def _create_database(self, item: Item) -> Json:
        database = {"name": item.name, **body_of("database", item.settings)}
        return self._api.post(f"{self._branch_path(item)}/databases", {"database": database})

    # ── where ──

    def _id(self, trail: Trail) -> str:
        try:
            return self._ids[trail]
        except KeyError:
            raise CommandError(f"{address(trail)} is not there") from None

    def _project(self, project_id: str) -> Json:
        return self._api.get(f"/projects/{segment(project_id)}")

    def _project_path(self, item: Item) -> str:
        return f"/projects/{segment(self._id(item.trail[:1]))}"

    def _branch_path(self, item: Item) -> str:
        return f"{self._project_path(item)}/branches/{segment(self._id(item.trail[:2]))}"

    def _path(self, item: Item) -> str:
        match item.kind:
            case "project":
                return self._project_path(item)
            case "branch":
                return self._branch_path(item)
            case "compute" | "reader":
                return f"{self._project_path(item)}/endpoints/{segment(item.id or self._id(item.trail))}"
            case kind:
                return f"{self._branch_path(item)}/{kind}s/{segment(item.known_as[-1][1])}"

    def _create_once(self, path: str, body: Json, item: Item, look: Callable[[Json], Json]) -> Json:
        """The same step of the same plan, taken twice at the same time by one account, is one creation: the platform keeps
        the first answer. Where what it made is gone again, that was an earlier apply, and it is made anew."""
        hour = int(self._clock() // CREATION_S)
        key = hashlib.sha256(f"{self._plan.hash} {item.address} {hour}".encode()).hexdigest()
        try:
            answer = self._api.post(path, body, idempotency_key=key)
        except ApiError as error:
            if error.status != 409 or "Idempotency-Key" not in str(error):
                raise
            raise MovedError(
                f"another apply of this plan is making {item.address}, or was cut off while it did: see what is there, and make "
                "another plan; where nothing is, it can be made within the hour"
            ) from error
        try:
            look(answer)
        except ApiError as error:
            if error.status != 404:
                raise
            answer = self._api.post(path, body)
        return answer


def put_settings(api: Api, org_id: str, call: str, settings: Settings, reason: str) -> Json:
    """An organization's, of one call: all that there are of it."""
    base = f"/cloister/organizations/{segment(org_id)}"
    said = {path.partition(".")[2]: value for path, value in settings.items()}
    match call:
        case "keys":
            said |= {"reencrypt_days": or_none(said.get("reencrypt_days"), NEVER)}
            return api.put(f"{base}/key_policy", said)
        case "passkeys":
            return api.put(f"{base}/passkey_policy", said)
        case "consents":
            return api.put(f"{base}/consent_policy", said)
        case "access_reviews" if said.get("every_days") == NEVER:
            return api.delete(f"{base}/access_review_policy")
        case "access_reviews":
            return api.put(f"{base}/access_review_policy", said)
        case record:
            days = said[f"{record}_days"]
            body = {"record": record, "days": days if isinstance(days, int) else None, "reason": reason}
            return api.post(f"{base}/audit_retention", body)


_OBJECTS: Final = {"compute": "endpoint", "reader": "endpoint"}
"""What the API calls a kind in a body, where it is not the kind's own word."""


def _of_listed(item: Item, found: Iterable[Any]) -> Settings:
    for each in found:
        if each.id == item.id:
            settings: Settings = each.settings
            return settings
    raise MovedError(f"{item.address} is gone since the plan was made: make another plan")


def _changed(item: Item) -> Json:
    new = {each.path: each.new for each in item.changes if each.new is not None}
    name = new.pop(NAME, None)
    return ({} if name is None else {NAME: name}) | body_of(item.kind, new, nulls=True)
