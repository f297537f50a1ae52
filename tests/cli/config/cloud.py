"""The API in memory, as far as a configuration is about it: same paths, same bodies, same answers. No network, no clock."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from cloister.base.versions import MOVED
from cloister.cli.api import ApiError, Json

ORG = "org-calm-lake-00000001"
PASSWORD = "npg_never_to_be_shown"
ENDPOINT = {"min": "autoscaling_limit_min_cu", "max": "autoscaling_limit_max_cu"}
DEFAULTS: Json = {
    "autoscaling_limit_min_cu": 0.25,
    "autoscaling_limit_max_cu": 2.0,
    "suspend_timeout_seconds": 0,
    "pg_settings": {},
}
QUOTA = [
    "active_time_seconds", "compute_time_seconds", "written_data_bytes", "data_transfer_bytes", "logical_size_bytes"
]  # fmt: skip


_VERSIONED = re.compile(
    r"/projects/[^/]+(/branches/[^/]+(/(roles|databases)/[^/]+|/backup_schedule)?|/endpoints/[^/]+)?|/cloister/projects/[^/]+/audit_level"
    r"|/cloister/organizations/[^/]+/(key|passkey|consent|access_review)_policy"
)
"""Paths of what has a version."""


class Cloud:
    """`asked` are the calls that were to change something; `before` is called with each of them first."""

    def __init__(self) -> None:
        self.auth_method = "api_key_user"
        self.projects: dict[str, Json] = {}
        self.branches: dict[str, Json] = {}
        self.endpoints: dict[str, Json] = {}
        self.roles: dict[tuple[str, str], Json] = {}
        self.databases: dict[tuple[str, str], Json] = {}
        self.egress: dict[str, Json] = {}
        self.permissions: dict[str, Json] = {}
        self.schedules: dict[str, list[Json]] = {}
        self.audit_levels: dict[str, str] = {}
        self.key_policy: Json = {"rotate_days": 365}
        self.passkeys = False
        self.consents: Json = {"required": False}
        self.reviews: Json | None = None
        self.retentions: list[Json] = []
        self.groups: dict[str, Json] = {}
        self.members: dict[str, Json] = {}
        self.service_accounts: dict[str, Json] = {}
        self.jwks: dict[str, Json] = {}
        self.api_keys: dict[str, Json] = {}
        self.answers: dict[str, Json] = {}
        self.asked: list[tuple[str, str, Json | None]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.change = ""
        self.changes: list[str] = []
        """What was said of each call that changes something."""
        self.versions: dict[str, str] | None = None
        self._numbers = itertools.count(1)

    # ── as cloister.cli.api.Api ──

    def get(self, path: str, **query: Any) -> Json:
        answer = self._routed("GET", path, None, query)
        self._note(path)
        return answer

    def pages(self, path: str, field: str, **query: Any) -> Iterator[Json]:
        yield from self.get(path, **query)[field]

    def post(self, path: str, body: Json | None = None, *, idempotency_key: str | None = None, **query: Any) -> Json:
        self.before("POST", path)
        if idempotency_key is not None and idempotency_key in self.answers:
            return self.answers[idempotency_key]
        answer = self._changed("POST", path, body, query)
        if idempotency_key is not None:
            self.answers[idempotency_key] = answer
        return answer

    def put(self, path: str, body: Json) -> Json:
        return self._changed("PUT", path, body, {})

    def patch(self, path: str, body: Json) -> Json:
        return self._changed("PATCH", path, body, {})

    def delete(self, path: str, **query: Any) -> Json:
        return self._changed("DELETE", path, None, query)

    def _changed(self, method: str, path: str, body: Json | None, query: Json) -> Json:
        if method != "POST":
            self.before(method, path)
            seen = (self.versions or {}).get(path)
            if seen is not None and seen != self._version(path):
                raise ApiError(412, "it is not as If-Match says", MOVED)
        self.asked.append((method, path, body))
        self.changes.append(self.change)
        answer = self._routed(method, path, body, query)
        if method in ("PATCH", "PUT"):
            self._note(path)
        return answer

    def _note(self, path: str) -> None:
        if self.versions is not None and (version := self._version(path)):
            self.versions[path] = version

    def _version(self, path: str) -> str:
        """Of what has one; empty for what is gone, or has another path by now."""
        if not _VERSIONED.fullmatch(path):
            return ""
        try:
            return json.dumps(self._routed("GET", path, None, {}), sort_keys=True)
        except ApiError:
            return ""

    def _routed(self, method: str, path: str, body: Json | None, query: Json) -> Json:
        words = path.strip("/").split("/")
        kind = "_".join(word for word in words if not re.search(r"\d", word) and word != "cloister")
        ids = [word for word in words if re.search(r"\d", word)]
        if kind.startswith(("projects_branches_roles", "projects_branches_databases")):
            kind, ids = f"projects_branches_{words[4]}", [words[1], words[3], *words[5:]]
        if kind.endswith(("permissions", "egress")):
            ids = [word for index, word in enumerate(words) if index in (len(words) - 1, words.index("projects") + 1)]
            ids = ids if words[-1] not in ("permissions", "egress") else ids[:1]
        found = getattr(self, f"_{kind}", None)
        if found is None:
            raise ApiError(404, f"the model knows no {method} {path}")
        answer: Json = found(method, ids, body or {}, query)
        return answer

    def _new(self, prefix: str) -> str:
        return f"{prefix}calm-lake-{next(self._numbers):08}"

    # ── the organization ──

    def _auth(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        return {"auth_method": self.auth_method, "account_id": ORG if self.auth_method == "api_key_org" else "somebody"}

    def _users_me_organizations(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if self.auth_method == "api_key_org":
            raise ApiError(403, "not permitted to this service account")
        return {"organizations": [{"id": ORG}]}

    def _organizations_key_policy(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PUT":
            self.key_policy = {name: value for name, value in body.items() if value is not None}
        return self.key_policy

    def _organizations_passkey_policy(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PUT":
            self.passkeys = body["required"]
        return {"required": self.passkeys}

    def _organizations_consent_policy(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        """As the platform: not to demand it any more takes another person."""
        if method == "PUT":
            self.consents = {"required": True} if body["required"] else self.consents
            if self.consents["required"] and not body["required"]:
                self.consents = {"required": True, "lift_asked_by": "ada@example.org"}
        return self.consents

    def _organizations_access_review_policy(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PUT":
            self.reviews = {"answer_days": 14, "unanswered_rights_lapse": True} | body
        if method == "DELETE":
            self.reviews = None
        if self.reviews is None and method == "GET":
            raise ApiError(404, "there is no policy")
        return self.reviews or {}

    def _organizations_audit_retention(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "POST":
            said = {"record": body["record"], "state": "holds", "asked_at": f"{next(self._numbers):08}"}
            self.retentions.append(said | ({} if body["days"] is None else {"days": body["days"]}))
        return {"retentions": self.retentions}

    def _organizations_groups(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "POST":
            for each in self.groups.values():
                if (each["issuer"], each["group"]) == (body["issuer"], body["group"]):
                    each["role"] = body["role"]
                    return each
            group_id = self._new("group-")
            self.groups[group_id] = {"id": group_id, "org_id": ORG, **body}
        if method == "DELETE":
            return self.groups.pop(ids[1])
        return {"groups": list(self.groups.values())}

    def _organizations_members(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PATCH":
            _there(self.members, ids[1])["role"] = body["role"]
        if method == "DELETE":
            del self.members[ids[1]]
        return {"members": [{"member": it, "user": {"email": it["email"]}} for it in self.members.values()]}

    def _organizations_invitations(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        for each in body["invitations"]:
            if any(it["email"] == each["email"].lower() for it in self.members.values()):
                raise ApiError(409, f"{each['email']} is a member already")
            member_id = self._new("member-")
            self.members[member_id] = {"id": member_id, **each, "email": each["email"].lower()}
        return {"invitations": []}

    def _organizations_service_accounts(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "POST":
            if any(it["name"] == body["name"] for it in self.service_accounts.values()):
                raise ApiError(409, "there is a service account of that name")
            account_id = self._new("account-")
            made = {"role": "collaborator", "grants": [], "owner": "ada@example.com", "disabled_at": None, **body}
            assert made.pop("key_days") == 1, "nobody sees this key"
            self.service_accounts[account_id] = {"id": account_id, **made}
            return {"service_account": self.service_accounts[account_id], "key": PASSWORD}
        if method == "PATCH":
            account = _there(self.service_accounts, ids[1])
            disabled = body.pop("disabled", account["disabled_at"] is not None)
            account.update(body | {"disabled_at": "2026-01-02T03:04:05Z" if disabled else None})
        if method == "DELETE":
            del self.service_accounts[ids[1]]
        return {"service_accounts": list(self.service_accounts.values())}

    def _organizations_api_keys(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "DELETE":
            _there(self.api_keys, ids[1])
            return self.api_keys.pop(ids[1])
        key_id = next(self._numbers)
        self.api_keys[str(key_id)] = body
        return {"id": key_id, "key": f"napi_{key_id}"}

    # ── projects ──

    def _projects_jwks(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        said = {"role_names": ["authenticated"], **body}
        return self._listed(self.jwks, "jwks", method, ids, said) | (
            {"jwks": list(self.jwks.values())[-1]} if body else {}
        )

    def _projects(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "GET" and not ids:
            return {"projects": list(self.projects.values())}
        if method == "POST":
            return self._create_project(body["project"])
        project = _there(self.projects, ids[0])
        if method == "PATCH":
            change = body["project"]
            project.update({key: change[key] for key in ("name", "history_retention_seconds") if key in change})
            for key, value in change.get("settings", {}).items():
                old = project["settings"][key]
                project["settings"][key] = {**old, **value} if isinstance(value, dict) else value
            project["default_endpoint_settings"] = {
                **project["default_endpoint_settings"],
                **change.get("default_endpoint_settings", {}),
            }
        if method == "DELETE":
            del self.projects[ids[0]]
        return {"project": project, "operations": []}

    def _create_project(self, new: Json) -> Json:
        assert new["org_id"] == ORG
        project_id = self._new("")
        said = new.get("settings", {})
        settings = {
            "quota": dict.fromkeys(QUOTA, 0) | said.get("quota", {}),
            "allowed_ips": {"ips": [], "protected_branches_only": False} | said.get("allowed_ips", {}),
            "enable_logical_replication": said.get("enable_logical_replication", False),
            "require_channel_binding": said.get("require_channel_binding", False),
            "block_public_connections": said.get("block_public_connections", False),
        }
        project = self.projects[project_id] = {
            "id": project_id,
            "org_id": ORG,
            "name": new["name"],
            "pg_version": new.get("pg_version", 17),
            "store_passwords": new.get("store_passwords", False),
            "history_retention_seconds": new.get("history_retention_seconds", 86_400),
            "settings": settings,
            "tags": [],
            "default_endpoint_settings": DEFAULTS | new.get("default_endpoint_settings", {}),
        }
        self.audit_levels[project_id] = "base"
        first = {"name": "main", "role_name": "owner", "database_name": "db"} | new.get("branch", {})
        branch = self._add_branch(project_id, first["name"], None) | {"default": True}
        self.branches[branch["id"]] = branch
        role, database = first["role_name"], first["database_name"]
        self.roles[branch["id"], role] = {"name": role, "authentication_method": "password", "password": PASSWORD}
        self.databases[branch["id"], database] = {"name": database, "owner_name": role}
        endpoint = self._add_endpoint(project_id, {"branch_id": branch["id"], "type": "read_write"})
        return {"project": project, "branch": branch, "endpoints": [endpoint], "operations": [], "password": PASSWORD}

    def _projects_audit_level(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PUT":
            self.audit_levels[ids[0]] = body["level"]
        return {"level": self.audit_levels[ids[0]]}

    def _projects_egress(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        return self._listed(
            self.egress, "egress_rules", method, ids, {"to": body.get("to"), "ca_pem": body.get("ca_pem")}
        )

    def _projects_permissions(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        for each in list(self.permissions.values()):
            if method == "POST" and (each["project_id"], each["granted_to_email"]) == (ids[0], body["email"]):
                each["role"] = body["role"]
                return each
        said = {"granted_to_email": body.get("email"), "role": body.get("role")}
        return self._listed(self.permissions, "project_permissions", method, ids, said)

    def _listed(self, rows: dict[str, Json], field: str, method: str, ids: list[str], said: Json) -> Json:
        if method == "POST":
            row_id = self._new("row-")
            rows[row_id] = {"id": row_id, "project_id": ids[0], "host": f"/egress/{row_id}", **said}
            return {field: [rows[row_id]], field.removesuffix("s"): rows[row_id]}
        if method == "DELETE":
            del rows[ids[1]]
        return {field: [each for each in rows.values() if each["project_id"] == ids[0]]}

    # ── branches ──

    def _add_branch(self, project_id: str, name: str, parent_id: str | None) -> Json:
        names = [each["name"] for each in self.branches.values() if each["project_id"] == project_id]
        if name in names:
            raise ApiError(409, "branch already exists")
        branch_id = self._new("br-")
        branch = {"id": branch_id, "project_id": project_id, "name": name, "protected": False, "default": False}
        branch["tags"] = list(self.branches[parent_id]["tags"]) if parent_id is not None else []
        self.branches[branch_id] = branch | ({} if parent_id is None else {"parent_id": parent_id})
        return self.branches[branch_id]

    def _projects_branches(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "GET" and len(ids) == 1:
            return {"branches": [each for each in self.branches.values() if each["project_id"] == ids[0]]}
        said = body.get("branch", {})
        if method == "POST":
            default = (
                each["id"] for each in self.branches.values() if each["default"] and each["project_id"] == ids[0]
            )
            parent = said.get("parent_id") or next(default)
            branch = self._add_branch(ids[0], said["name"], parent)
            for rows in (self.roles, self.databases):
                copied = {(branch["id"], name): dict(row) for (of, name), row in rows.items() if of == parent}
                rows.update(copied)
        else:
            branch = _there(self.branches, ids[1])
        if method == "DELETE":
            if any(each.get("parent_id") == ids[1] for each in self.branches.values()) or branch["default"]:
                raise ApiError(422, "cannot delete branch that has children, or is the default")
            del self.branches[ids[1]]
        branch.update({key: said[key] for key in ("name", "protected", "expires_at") if key in said})
        return {"branch": branch, "operations": []}

    def _projects_tags(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        return self._tagged(_there(self.projects, ids[0]), body)

    def _projects_branches_tags(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        return self._tagged(_there(self.branches, ids[1]), body)

    @staticmethod
    def _tagged(thing: Json, body: Json) -> Json:
        assert not set(body["add"]) & set(thing["tags"]), "what is there already is not set"
        assert set(body["remove"]) <= set(thing["tags"])
        thing["tags"] = sorted({*thing["tags"], *body["add"]} - set(body["remove"]))
        return {"tags": thing["tags"]}

    def _projects_branches_backup_schedule(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "PUT":
            self.schedules[ids[1]] = body["schedule"]
            return {}
        return {"schedule": self.schedules.get(ids[1], [])}

    def _projects_branches_set_as_default(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        for each in self.branches.values():
            if each["project_id"] == ids[0]:
                each["default"] = each["id"] == ids[1]
        return {"branch": self.branches[ids[1]]}

    def _add_endpoint(self, project_id: str, said: Json) -> Json:
        there = [each for each in self.endpoints.values() if each["branch_id"] == said["branch_id"]]
        if said["type"] == "read_write" and any(each["type"] == "read_write" for each in there):
            raise ApiError(409, "branch already has a read-write endpoint")
        defaults = self.projects[project_id]["default_endpoint_settings"]
        endpoint_id = self._new("ep-")
        self.endpoints[endpoint_id] = {
            "id": endpoint_id,
            "host": f"{endpoint_id}.db.example",
            "project_id": project_id,
            "created_at": endpoint_id,
            "disabled": False,
            **{key: value for key, value in defaults.items() if key != "pg_settings"},
            "settings": {"pg_settings": defaults["pg_settings"]},
            **said,
        }
        return self.endpoints[endpoint_id]

    def _projects_endpoints(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "GET" and len(ids) == 1:
            living = [each for each in self.endpoints.values() if each["branch_id"] in self.branches]
            return {"endpoints": [each for each in living if each["project_id"] == ids[0]]}
        said = body.get("endpoint", {})
        endpoint = self._add_endpoint(ids[0], said) if method == "POST" else _there(self.endpoints, ids[1])
        if method == "PATCH":
            endpoint.update(said)
        if method == "DELETE":
            del self.endpoints[ids[1]]
        return {"endpoint": endpoint, "operations": []}

    def _projects_branches_roles(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        if method == "GET" and len(ids) == 3:
            return {"role": _there(self.roles, (ids[1], ids[2]))}
        if method == "GET":
            return {"roles": [row for (branch, _), row in self.roles.items() if branch == ids[1]]}
        name = body["role"]["name"] if method == "POST" else ids[2]
        if method == "DELETE":
            owned = [row for (of, _), row in self.databases.items() if of == ids[1] and row["owner_name"] == name]
            if owned:
                raise ApiError(422, "role owns a database")
            del self.roles[ids[1], name]
            return {"operations": []}
        if (ids[1], name) in self.roles:
            raise ApiError(409, "role already exists")
        method_ = "no_login" if body["role"]["no_login"] else "password"
        self.roles[ids[1], name] = {"name": name, "authentication_method": method_}
        return {"role": {"name": name, "password": PASSWORD}, "operations": []}

    def _projects_branches_databases(self, method: str, ids: list[str], body: Json, query: Json) -> Json:
        said = body.get("database", {})
        if method == "GET" and len(ids) == 2:
            return {"databases": [row for (branch, _), row in self.databases.items() if branch == ids[1]]}
        if method == "POST":
            if (ids[1], said["name"]) in self.databases or (ids[1], said["owner_name"]) not in self.roles:
                raise ApiError(409, "database already exists, or its owner does not")
            self.databases[ids[1], said["name"]] = dict(said)
            return {"operations": []}
        row = _there(self.databases, (ids[1], ids[2]))
        if method in ("DELETE", "PATCH"):
            del self.databases[ids[1], ids[2]]
        if method == "PATCH":
            row = row | said
            self.databases[ids[1], row["name"]] = row
        return {"database": row, "operations": []}


def _there(rows: dict[Any, Json], key: Any) -> Json:
    if key not in rows:
        raise ApiError(404, "not found")
    return rows[key]
