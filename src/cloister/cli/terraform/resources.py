"""The kinds of things that Terraform can manage.

What must stay true: a password or key that an answer holds is dropped here, so that it is in no state; `tests/cli/terraform` holds
every kind to that.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

from cloister.cli.api import Api, Json, segment
from cloister.cli.config.nouns import schedule_item
from cloister.cli.config.platform import Platform as Configured
from cloister.cli.config.platform import body_of
from cloister.cli.failure import CommandError
from cloister.cli.terraform.organization import Group, Member, Organization, ServiceAccount
from cloister.cli.terraform.platform import Platform, branch_path, project_path
from cloister.cli.terraform.resource import (
    ADOPT,
    BRANCH_ID,
    ID,
    PROJECT_ID,
    Listed,
    Made,
    Resource,
    State,
    given,
    known_settings,
    named,
    or_gone,
    settings,
    told_settings,
)
from cloister.cli.terraform.schema import Attribute, Schema, Type, Use
from cloister.cli.terraform.values import UNKNOWN


class Project(Resource):
    name = "project"
    identity = ("id",)
    said_once = frozenset({"branch_name", "role_name", "database_name"})
    schema = Schema(
        "A project: one tenant, with its own keys, branches and settings.",
        (
            ID,
            Attribute(
                "name", text="Projects may share a name, but not with one that this configuration does not know."
            ),
            Attribute("org_id", use=Use.KEPT, replaces=True, text="The organization that it is of."),
            *(
                Attribute(f"{each}_name", use=Use.FREE, replaces=True, text=f"Of the {each} that it begins with.")
                for each in ("branch", "role", "database")
            ),
            *settings("project"),
            Attribute("default_branch_id", use=Use.TOLD),
            Attribute("default_endpoint_id", use=Use.TOLD, text="Of the default branch, the one that writes."),
            Attribute("host", use=Use.TOLD, text="Where clients of the default branch connect."),
        ),
    )

    def unknown_to(self, platform: Platform, wanted: State, seen: set[str]) -> None:
        """An apply that was cut off before Terraform wrote down what it had made must not make it twice."""
        if wanted["name"] is UNKNOWN:
            return
        for each in platform.api.pages(
            "/projects", "projects", org_id=given(wanted, "org_id").get("org_id") or platform.org_id
        ):
            if each["name"] == wanted["name"] and each["id"] not in seen:
                raise CommandError(
                    f"a project of that name is there that this configuration does not know: `terraform import ADDRESS {each['id']}` "
                    "takes it over, and another name makes another one"
                )

    def create(self, platform: Platform, wanted: State) -> Made:
        first = {
            key: wanted[name]
            for key, name in (("name", "branch_name"), ("role_name", "role_name"), ("database_name", "database_name"))
            if wanted[name] is not None
        }
        body = {"name": wanted["name"], "org_id": given(wanted, "org_id").get("org_id") or platform.org_id}
        body |= body_of("project", known_settings(wanted, "project")) | ({"branch": first} if first else {})
        answer = platform.api.post("/projects", {"project": body})
        return Made({"id": answer["project"]["id"]}, answer.get("operations") or [])

    def read(self, platform: Platform, state: State) -> State | None:
        api, project_id = platform.api, state["id"]
        path = f"/projects/{segment(project_id)}"
        if (answer := or_gone(api, path)) is None:
            return None
        project = answer["project"]
        default = next((each for each in api.pages(f"{path}/branches", "branches") if each.get("default")), {})
        endpoint = _writer(api, path, str(default.get("id", ""))) or {}
        return {
            "id": project_id,
            "name": project["name"],
            "org_id": project.get("org_id"),
            **told_settings("project", project),
            **Configured(api, "").audit_level(project_id),
            "default_branch_id": default.get("id"),
            "default_endpoint_id": endpoint.get("id"),
            "host": endpoint.get("host"),
        }

    def change(self, platform: Platform, state: State, changed: State) -> None:
        api, path = platform.api, f"/projects/{segment(state['id'])}"
        body = given(changed, "name") | body_of("project", known_settings(changed, "project"), nulls=True)
        if body:
            platform.finish(api.patch(path, {"project": body}))
        if "audit_level" in changed:
            platform.finish(api.put(f"/cloister{path}/audit_level", {"level": changed["audit_level"]}))
        if "tags" in changed:
            _change_tags(platform, path, state, changed)

    def delete(self, platform: Platform, state: State) -> None:
        platform.finish(platform.api.delete(f"/projects/{segment(state['id'])}"))

    def is_protected(self, platform: Platform, state: State) -> str:
        branches = platform.api.pages(f"/projects/{segment(state['id'])}/branches", "branches")
        names = [str(each["name"]) for each in branches if each["protected"]]
        return f"cannot delete project with protected branches: {', '.join(names)}" if names else ""


def _change_tags(platform: Platform, path: str, state: State, changed: State) -> None:
    """What comes and what goes: whatever somebody else sets meanwhile stays."""
    old, new = set(state["tags"] or ()), set(changed["tags"])
    body = {"add": sorted(new - old), "remove": sorted(old - new), "reason": "Terraform"}
    platform.finish(platform.api.patch(f"/cloister{path}/tags", body))


def _writer(api: Api, project: str, branch_id: str) -> Json | None:
    found: list[Json] = api.get(f"{project}/endpoints").get("endpoints") or []
    return next((each for each in found if each["branch_id"] == branch_id and each["type"] == "read_write"), None)


class Branch(Resource):
    name = "branch"
    identity = ("project_id", "id")
    said_once = frozenset({"adopt", "parent_timestamp", "parent_lsn"})
    schema = Schema(
        "A branch: a whole copy of its parent's data, which shares what it does not change. It has no endpoint by itself.",
        (
            ID,
            PROJECT_ID,
            Attribute("name"),
            Attribute("parent_id", use=Use.KEPT, replaces=True, text="Default: the project's default branch."),
            Attribute(
                "parent_timestamp", use=Use.FREE, replaces=True, text="The moment of its parent that it begins at."
            ),
            Attribute(
                "parent_lsn", use=Use.FREE, replaces=True, text="The place in its parent's log that it begins at."
            ),
            *settings("branch"),
            ADOPT,
            Attribute("default", Type.FLAG, Use.TOLD, text="Whether it is the project's default branch."),
        ),
    )

    def create(self, platform: Platform, wanted: State) -> Made:
        path = project_path(wanted)
        if wanted["adopt"]:
            for each in platform.api.pages(f"{path}/branches", "branches"):
                if each["name"] == wanted["name"]:
                    return Made({"project_id": wanted["project_id"], "id": each["id"]})
        body = given(wanted, "name", "parent_id", "parent_timestamp", "parent_lsn")
        body |= body_of("branch", known_settings(wanted, "branch"))
        answer = platform.api.post(f"{path}/branches", {"branch": body})
        return Made({"project_id": wanted["project_id"], "id": answer["branch"]["id"]}, answer.get("operations") or [])

    def read(self, platform: Platform, state: State) -> State | None:
        path = project_path(state)
        if (answer := or_gone(platform.api, f"{path}/branches/{segment(state['id'])}")) is None:
            return None
        branch = answer["branch"]
        return {
            "id": branch["id"],
            "project_id": state["project_id"],
            "name": branch["name"],
            "parent_id": branch.get("parent_id"),
            **told_settings("branch", branch),
            **Configured(platform.api, "").snapshots(path, branch["id"]),
            "default": branch["default"],
        }

    def change(self, platform: Platform, state: State, changed: State) -> None:
        path = f"{project_path(state)}/branches/{segment(state['id'])}"
        body = given(changed, "name") | body_of("branch", known_settings(changed, "branch"), nulls=True)
        if body:
            platform.finish(platform.api.patch(path, {"branch": body}))
        if "snapshots" in changed:
            schedule = [schedule_item(each) for each in changed["snapshots"]]
            platform.finish(platform.api.put(f"{path}/backup_schedule", {"schedule": schedule}))
        if "tags" in changed:
            _change_tags(platform, path, state, changed)

    def delete(self, platform: Platform, state: State) -> None:
        platform.finish(platform.api.delete(f"{project_path(state)}/branches/{segment(state['id'])}"))

    def is_protected(self, platform: Platform, state: State) -> str:  # noqa: ARG002 - as it was read for the plan
        return "cannot delete protected branch" if state["protected"] else ""


class Endpoint(Resource):
    name = "endpoint"
    identity = ("project_id", "id")
    said_once = frozenset({"adopt", "number"})
    schema = Schema(
        "An endpoint: a server for a branch, which clients connect to.",
        (
            ID,
            PROJECT_ID,
            BRANCH_ID,
            Attribute(
                "type",
                use=Use.KEPT,
                replaces=True,
                text="read_write, of which a branch has one (default), or read_only.",
            ),
            Attribute(
                "number",
                Type.NUMBER,
                Use.FREE,
                text="Of a branch's read_only endpoints, which one it is. Said, an apply that was cut off and is repeated within a day "
                "makes none twice.",
            ),
            *settings("compute"),
            ADOPT,
            Attribute("host", use=Use.TOLD, text="Where clients connect."),
        ),
    )

    def create(self, platform: Platform, wanted: State) -> Made:
        path = project_path(wanted)
        kind = given(wanted, "type").get("type", "read_write")
        if wanted["adopt"] and kind == "read_write":
            there = _writer(platform.api, path, wanted["branch_id"])
            if there is not None:
                return Made({"project_id": wanted["project_id"], "id": there["id"]})
        body = {"branch_id": wanted["branch_id"], "type": kind, **body_of("compute", known_settings(wanted, "compute"))}
        answer = self._made(platform.api, f"{path}/endpoints", {"endpoint": body}, wanted["number"])
        return Made(
            {"project_id": wanted["project_id"], "id": answer["endpoint"]["id"]}, answer.get("operations") or []
        )

    @staticmethod
    def _made(api: Api, path: str, body: Json, number: int | None) -> Json:
        """One of a number is made once: the platform gives its first answer again. Where what it made then is gone, another is made."""
        if number is None:
            return api.post(path, body)
        said = json.dumps([path, body, number], sort_keys=True)
        answer = api.post(path, body, idempotency_key=f"terraform {hashlib.sha256(said.encode()).hexdigest()}")
        if or_gone(api, f"{path}/{segment(answer['endpoint']['id'])}") is None:
            answer = api.post(path, body)
        return answer

    def read(self, platform: Platform, state: State) -> State | None:
        if (answer := or_gone(platform.api, self._path(state))) is None:
            return None
        endpoint = answer["endpoint"]
        told = {name: endpoint[name] for name in ("id", "branch_id", "type", "host")}
        return {"project_id": state["project_id"], **told, **told_settings("compute", endpoint)}

    def change(self, platform: Platform, state: State, changed: State) -> None:
        body = body_of("compute", known_settings(changed, "compute"), nulls=True)
        platform.finish(platform.api.patch(self._path(state), {"endpoint": body}))

    def delete(self, platform: Platform, state: State) -> None:
        platform.finish(platform.api.delete(self._path(state)))

    @staticmethod
    def _path(state: State) -> str:
        return f"{project_path(state)}/endpoints/{segment(state['id'])}"


class _OfBranch(Resource):
    """What a branch has by its name. The API's word for it is `name`, and `name`s for all of them."""

    identity = ("project_id", "branch_id", "name")
    said_once = frozenset({"adopt"})

    @abstractmethod
    def _body(self, wanted: State) -> Json:
        """What the API is sent to make one, beside its name."""

    @abstractmethod
    def _told(self, answer: Json) -> State:
        """Its settings, as the API tells them."""

    def create(self, platform: Platform, wanted: State) -> Made:
        identity = {name: wanted[name] for name in self.identity}
        if wanted["adopt"] and self.read(platform, wanted) is not None:
            return Made(identity)
        body = {self.name: {"name": wanted["name"], **self._body(wanted)}}
        answer = platform.api.post(f"{branch_path(wanted)}/{self.name}s", body)
        return Made(identity, answer.get("operations") or [])

    def read(self, platform: Platform, state: State) -> State | None:
        if (answer := or_gone(platform.api, self._path(state))) is None:
            return None
        identity = {name: state[name] for name in self.identity}
        return identity | {"id": _joined(self, state)} | self._told(answer[self.name])

    def delete(self, platform: Platform, state: State) -> None:
        platform.finish(platform.api.delete(self._path(state)))

    def _path(self, state: State) -> str:
        return f"{branch_path(state)}/{self.name}s/{segment(state['name'])}"


class Role(_OfBranch):
    """Its password is in the answer that makes it, and goes no further."""

    name = "role"
    schema = Schema(
        "A role of a branch. Its password is not here: `ephemeral.cloister_role_password` has it where the project stores passwords, "
        "and `cloister roles reset-password` gives another one.",
        (
            Attribute("id", use=Use.TOLD),
            PROJECT_ID,
            BRANCH_ID,
            Attribute("name", replaces=True),
            *settings("role"),
            ADOPT,
        ),
    )

    def _body(self, wanted: State) -> Json:
        return {"no_login": wanted["login"] is False}

    def _told(self, answer: Json) -> State:
        return {"login": answer.get("authentication_method") != "no_login"}


class Database(_OfBranch):
    name = "database"
    schema = Schema(
        "A database of a branch.",
        (
            Attribute("id", use=Use.TOLD, follows="name"),
            PROJECT_ID,
            BRANCH_ID,
            Attribute("name"),
            *settings("database"),
            ADOPT,
        ),
    )

    def _body(self, wanted: State) -> Json:
        return body_of("database", known_settings(wanted, "database"))

    def _told(self, answer: Json) -> State:
        return told_settings("database", answer)

    def change(self, platform: Platform, state: State, changed: State) -> None:
        body = given(changed, "name") | body_of("database", known_settings(changed, "database"), nulls=True)
        platform.finish(platform.api.patch(self._path(state), {"database": body}))


def _joined(resource: Resource, state: State) -> str:
    return "/".join(state[name] for name in resource.identity)


class Egress(Listed):
    name = "egress"
    field = "egress_rules"
    identity = ("project_id", "id")
    schema = Schema(
        "A way out: a server that the project's databases may connect to, over verified TLS.",
        (
            ID,
            PROJECT_ID,
            Attribute(
                "to",
                replaces=True,
                form=named("egress"),
                text="HOST:PORT, where HOST is a name, an address or a network.",
            ),
            *settings("egress", use=Use.FREE),
            Attribute("host", use=Use.TOLD, text="What SQL names as host."),
        ),
    )

    def path(self, state: State) -> str:
        return f"/cloister{project_path(state)}/egress"

    def create(self, platform: Platform, wanted: State) -> Made:
        body = {"to": wanted["to"], **body_of("egress", known_settings(wanted, "egress"))}
        answer = platform.api.post(self.path(wanted), body)
        return Made({"project_id": wanted["project_id"], "id": answer["egress_rule"]["id"]})

    def read(self, platform: Platform, state: State) -> State | None:
        if (rule := self.found(platform, state)) is None:
            return None
        told = {"project_id": state["project_id"]} | {name: rule[name] for name in ("id", "to", "host")}
        return told | told_settings("egress", rule)


class Permission(Listed):
    name = "permission"
    field = "project_permissions"
    identity = ("project_id", "email")
    schema = Schema(
        "What somebody may do in a project.",
        (
            ID,
            PROJECT_ID,
            Attribute("email", replaces=True, form=named("permission")),
            *settings("permission"),
        ),
    )

    def path(self, state: State) -> str:
        return f"{project_path(state)}/permissions"

    def is_it(self, listed: Json, state: State) -> bool:
        return bool(listed["granted_to_email"].lower() == state["email"].lower())

    def create(self, platform: Platform, wanted: State) -> Made:
        body = {"email": wanted["email"], **body_of("permission", known_settings(wanted, "permission"))}
        platform.api.post(self.path(wanted), body)
        return Made({"project_id": wanted["project_id"], "email": wanted["email"]})

    def read(self, platform: Platform, state: State) -> State | None:
        if (granted := self.found(platform, state)) is None:
            return None
        told = {"project_id": state["project_id"], "id": granted["id"], "email": granted["granted_to_email"]}
        return told | told_settings("permission", granted)

    def change(self, platform: Platform, state: State, changed: State) -> None:
        """Granted again, with another role."""
        platform.api.post(self.path(state), {"email": state["email"], "role": changed["role"]})


class Jwks(Listed):
    name = "jwks"
    field = "jwks"
    identity = ("project_id", "id")
    schema = Schema(
        "Another issuer, whose tokens open the project's databases.",
        (
            ID,
            PROJECT_ID,
            Attribute("jwks_url", replaces=True, text="Where its keys are. They are fetched when it is made."),
            Attribute("provider_name", replaces=True),
            Attribute("branch_id", use=Use.FREE, replaces=True, text="The branch alone. Default: all."),
            Attribute("jwt_audience", use=Use.FREE, replaces=True),
            Attribute("jwt_issuer", use=Use.FREE, replaces=True),
            Attribute("role_names", Type.SET, Use.KEPT, replaces=True, text="Roles that its tokens may be for."),
        ),
    )
    _SAID: ClassVar = ("jwks_url", "provider_name", "branch_id", "jwt_audience", "jwt_issuer", "role_names")

    def path(self, state: State) -> str:
        return f"{project_path(state)}/jwks"

    def create(self, platform: Platform, wanted: State) -> Made:
        answer = platform.api.post(self.path(wanted), given(wanted, *self._SAID))
        return Made({"project_id": wanted["project_id"], "id": answer["jwks"]["id"]})

    def read(self, platform: Platform, state: State) -> State | None:
        if (found := self.found(platform, state)) is None:
            return None
        told = {name: found.get(name) for name in self._SAID}
        return {"project_id": state["project_id"], "id": found["id"], **told}


RESOURCES: Final[Mapping[str, Resource]] = {
    f"cloister_{each.name}": each
    for each in (
        Organization(),
        Member(),
        Group(),
        ServiceAccount(),
        Project(),
        Branch(),
        Endpoint(),
        Role(),
        Database(),
        Egress(),
        Permission(),
        Jwks(),
    )
}
