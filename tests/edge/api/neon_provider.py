"""Neon's community provider for Terraform, `kislerdm/neon`, as an API sees it: what it asks, in which order, and what it
makes of the answers.

Written from what its text says (0.13 to 0.15, over neon-sdk-go), in words of our own: it is a program in Go, and what it is
built of cannot be had where the tests run. Each method is one step of Terraform's with one resource, and returns what would
stand in the state afterwards. What it cannot go on with is an error here: a Go program crashes, or stops half-way with a
thing made that no state knows of.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import httpx

State = dict[str, Any]

HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/json",  # with GET and DELETE too, which have no body
    "User-Agent": "tfProvider-kislerdm/neon@0.15.0 (terraform@1.11.4)",
}
RETRIED: Final = {423, 429, 500}
"""After a second, up to 120 times, and the whole step: what a step has made by then is made again."""

UNFINISHED: Final = {"running", "scheduling"}
POLLS_MAX: Final = 5
"""The program asks ten times a second without an end; nothing here takes that long."""


class RefusedError(Exception):
    """What the program's library makes of any status above 299."""

    def __init__(self, answer: httpx.Response) -> None:
        said = json.loads(answer.content)
        self.status, self.code, self.message = answer.status_code, said.get("code", ""), said.get("message", "")
        assert isinstance(self.code, str)
        assert isinstance(self.message, str)
        super().__init__(f"[HTTP Code: {self.status}][Error Code: {self.code}] {self.message}")


class Provider:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.calls: list[str] = []
        """`GET /projects/…`, in order."""

    # -- projects --

    async def create_project(self, **settings: Any) -> State:
        """With the provider's own defaults, which it always sends: a day of history, and passwords that are stored."""
        body = {"store_passwords": True, "history_retention_seconds": 86400} | settings
        answer = await self.ask("POST", "/projects", {"project": body})
        await self._wait(answer)
        branch = answer["branch"]
        way_in = await self._way_in(answer["project"]["id"], branch, answer["endpoints"], answer["databases"])
        return _project(answer["project"], branch, way_in)

    async def read_project(self, project_id: str) -> State:
        """Also what an import does, and, all but the first line, the data source."""
        at = f"/projects/{project_id}"
        project = (await self.ask("GET", at))["project"]
        branches = (await self.ask("GET", f"{at}/branches"))["branches"]
        default = next(it for it in branches if it.get("primary") is True)
        endpoints = (await self.ask("GET", f"{at}/branches/{default['id']}/endpoints"))["endpoints"]
        databases = (await self.ask("GET", f"{at}/branches/{default['id']}/databases"))["databases"]
        return _project(project, default, await self._way_in(project_id, default, endpoints, databases))

    async def update_project(self, project_id: str, settings: dict[str, Any], **fields: Any) -> State:
        """`allowed_ips` is always said, without `ips` where the resource has none."""
        body = {**fields, "settings": {"allowed_ips": {}} | settings}
        await self._wait(await self.ask("PATCH", f"/projects/{project_id}", {"project": body}))
        return await self.read_project(project_id)

    async def delete_project(self, project_id: str) -> None:
        await self.ask("DELETE", f"/projects/{project_id}")

    async def _way_in(
        self, project_id: str, branch: State, endpoints: Sequence[State], databases: Sequence[State]
    ) -> State:
        """The first endpoint that writes and the first database, by their age, and the password of who owns it. Of a list
        with nothing that fits, the program takes the first all the same, and crashes."""
        writers = [it for it in endpoints if it["type"] == "read_write" and it["branch_id"] == branch["id"]]
        endpoint = min((it for it in writers if it["disabled"] is False), key=_age)
        database = min((it for it in databases if it["branch_id"] == branch["id"]), key=_age)
        host, owner = _text(endpoint, "host"), _text(database, "owner_name")
        first, rest = host.split(".", 1)
        return {
            "default_endpoint_id": _text(endpoint, "id"),
            "database_host": host,
            "database_host_pooler": f"{first}-pooler.{rest}",
            "database_name": _text(database, "name"),
            "database_user": owner,
            "database_password": await self.password(project_id, branch["id"], owner),
        }

    # -- what is in them --

    async def create_branch(self, project_id: str, **fields: Any) -> State:
        answer = await self.ask("POST", f"/projects/{project_id}/branches", {"branch": fields})
        await self._wait(answer)
        return _branch(answer["branch"])

    async def read_branch(self, project_id: str, branch_id: str) -> State:
        return _branch((await self.ask("GET", f"/projects/{project_id}/branches/{branch_id}"))["branch"])

    async def update_branch(self, project_id: str, branch_id: str, **fields: Any) -> State:
        """One call for each of `name` and `protected`."""
        at = f"/projects/{project_id}/branches/{branch_id}"
        for name, value in fields.items():
            answer = await self.ask("PATCH", at, {"branch": {name: value}})
        await self._wait(answer)
        return _branch(answer["branch"])

    async def delete_branch(self, project_id: str, branch_id: str) -> None:
        await self._wait(await self.ask("DELETE", f"/projects/{project_id}/branches/{branch_id}"))

    async def create_endpoint(self, project_id: str, **fields: Any) -> State:
        body = {"type": "read_write", "disabled": False} | fields
        answer = await self.ask("POST", f"/projects/{project_id}/endpoints", {"endpoint": body})
        await self._wait(answer)
        return _endpoint(answer["endpoint"])

    async def read_endpoint(self, project_id: str, endpoint_id: str) -> State:
        return _endpoint((await self.ask("GET", f"/projects/{project_id}/endpoints/{endpoint_id}"))["endpoint"])

    async def update_endpoint(self, project_id: str, state: State, **changed: Any) -> State:
        """Everything is said again, as it was read."""
        said = ("branch_id", "disabled", "provisioner", "autoscaling_limit_min_cu", "autoscaling_limit_max_cu")
        body = {name: state[name] for name in said} | {"pooler_enabled": False} | changed
        answer = await self.ask("PATCH", f"/projects/{project_id}/endpoints/{state['id']}", {"endpoint": body})
        await self._wait(answer)
        return _endpoint(answer["endpoint"])

    async def delete_endpoint(self, project_id: str, endpoint_id: str) -> None:
        await self._wait(await self.ask("DELETE", f"/projects/{project_id}/endpoints/{endpoint_id}"))

    async def create_role(self, project_id: str, branch_id: str, name: str) -> State:
        answer = await self.ask("POST", f"{_roles(project_id, branch_id)}", {"role": {"name": name}})
        await self._wait(answer)
        # Without a password it would now ask for that of a branch which it calls by the project's id.
        return {"name": _text(answer["role"], "name"), "password": _text(answer["role"], "password")}

    async def read_role(self, project_id: str, branch_id: str, name: str) -> State:
        role = (await self.ask("GET", f"{_roles(project_id, branch_id)}/{name}"))["role"]
        password = role.get("password") or await self.password(project_id, branch_id, name)
        return {"name": _text(role, "name"), "password": password}

    async def password(self, project_id: str, branch_id: str, name: str) -> str:
        return _text(await self.ask("GET", f"{_roles(project_id, branch_id)}/{name}/reveal_password"), "password")

    async def delete_role(self, project_id: str, branch_id: str, name: str) -> None:
        await self._wait(await self.ask("DELETE", f"{_roles(project_id, branch_id)}/{name}"))

    async def create_database(self, project_id: str, branch_id: str, name: str, owner: str) -> State:
        body = {"database": {"name": name, "owner_name": owner}}
        answer = await self.ask("POST", f"/projects/{project_id}/branches/{branch_id}/databases", body)
        await self._wait(answer)
        return {"name": name, "owner_name": _text(answer["database"], "owner_name")}

    async def read_database(self, project_id: str, branch_id: str, name: str) -> State:
        answer = await self.ask("GET", f"/projects/{project_id}/branches/{branch_id}/databases/{name}")
        return {"name": name, "owner_name": _text(answer["database"], "owner_name")}

    async def update_database(self, project_id: str, branch_id: str, name: str, state: State) -> State:
        at = f"/projects/{project_id}/branches/{branch_id}/databases/{name}"
        answer = await self.ask("PATCH", at, {"database": state})
        await self._wait(answer)
        return {"name": _text(answer["database"], "name"), "owner_name": _text(answer["database"], "owner_name")}

    async def delete_database(self, project_id: str, branch_id: str, name: str) -> None:
        await self._wait(await self.ask("DELETE", f"/projects/{project_id}/branches/{branch_id}/databases/{name}"))

    async def set_schedule(self, project_id: str, branch_id: str, items: list[State]) -> list[State]:
        at = f"/projects/{project_id}/branches/{branch_id}/backup_schedule"
        await self.ask("PUT", at, {"schedule": items})
        found: list[State] = (await self.ask("GET", at))["schedule"]
        return found

    async def remove_schedule(self, project_id: str, branch_id: str) -> int:
        """Past its library, and without the key; whatever the answer, it is taken for done. Returns the status."""
        at = f"/projects/{project_id}/branches/{branch_id}/backup_schedule"
        request = self._client.build_request("PUT", at, content=b"[]")
        del request.headers["Authorization"]
        return (await self._client.send(request)).status_code

    # -- who may what --

    async def grant(self, project_id: str, email: str) -> State:
        at = f"/projects/{project_id}/permissions"
        permission_id = _text(await self.ask("POST", at, {"email": email}), "id")
        return await self._permission(at, permission_id)

    async def _permission(self, at: str, permission_id: str) -> State:
        found = (await self.ask("GET", at))["project_permissions"]
        it = next(it for it in found if it["id"] == permission_id)
        return {"id": permission_id, "grantee": _text(it, "granted_to_email")}

    async def revoke(self, project_id: str, permission_id: str) -> None:
        await self.ask("DELETE", f"/projects/{project_id}/permissions/{permission_id}")

    async def create_key(self, name: str, org_id: str | None = None, project_id: str | None = None) -> State:
        at = "/api_keys" if org_id is None else f"/organizations/{org_id}/api_keys"
        body = {"key_name": name} | ({} if project_id is None else {"project_id": project_id})
        made = await self.ask("POST", at, body)
        listed = await self.ask("GET", at)
        assert isinstance(listed, list)
        # It is found again by its name. The number is a text in the state.
        (it,) = (it for it in listed if it["name"] == name)
        return {"id": str(_number(it, "id")), "key": _text(made, "key")}

    async def revoke_key(self, key_id: str, org_id: str | None = None) -> None:
        at = "/api_keys" if org_id is None else f"/organizations/{org_id}/api_keys"
        await self.ask("DELETE", f"{at}/{int(key_id)}")

    async def add_jwks(self, project_id: str, **fields: Any) -> State:
        at = f"/projects/{project_id}/jwks"
        answer = await self.ask("POST", at, fields)
        await self._wait(answer)
        listed = (await self.ask("GET", at))["jwks"]
        it = next(it for it in listed if it["id"] == answer["jwks"]["id"])
        return {name: _text(it, name) for name in ("id", "project_id", "jwks_url", "provider_name")}

    async def delete_jwks(self, project_id: str, jwks_id: str) -> None:
        _text(await self.ask("DELETE", f"/projects/{project_id}/jwks/{jwks_id}"), "id")

    # -- data sources --

    async def branches(self, project_id: str) -> list[State]:
        listed = (await self.ask("GET", f"/projects/{project_id}/branches"))["branches"]
        return [_branch(it) | {"primary": it["primary"]} for it in listed]

    async def endpoints(self, project_id: str, branch_id: str) -> list[State]:
        listed = (await self.ask("GET", f"/projects/{project_id}/branches/{branch_id}/endpoints"))["endpoints"]
        return [_endpoint(it) for it in listed]

    async def roles(self, project_id: str, branch_id: str) -> list[str]:
        return [_text(it, "name") for it in (await self.ask("GET", _roles(project_id, branch_id)))["roles"]]

    async def regions(self) -> list[str]:
        listed = (await self.ask("GET", "/regions"))["regions"]
        assert [it["default"] for it in listed].count(True) == 1  # the data source `neon_default_region`
        return [_text(it, "region_id") for it in listed]

    # -- its library --

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.calls.append(f"{method} {path}")
        content = None if body is None else json.dumps(body).encode()
        answer = await self._client.request(method, path, content=content, headers=HEADERS)
        if answer.status_code > 299:
            raise RefusedError(answer)
        return json.loads(answer.content)  # every answer is decoded: one without a body is an error

    async def _wait(self, answer: State) -> None:
        """For each operation that has not ended. One that cannot be read is asked for again, for ever."""
        for operation in answer["operations"]:
            status = operation["status"]
            for _ in range(POLLS_MAX):
                if status not in UNFINISHED:
                    break
                at = f"/projects/{operation['project_id']}/operations/{operation['id']}"
                status = _text((await self.ask("GET", at))["operation"], "status")
            assert status not in UNFINISHED


# -- from an answer into the state --


def _project(project: State, branch: State, way_in: State) -> State:
    settings, defaults = project["settings"], project["default_endpoint_settings"]
    return {
        "id": _text(project, "id"),
        "org_id": _text(project, "org_id"),
        "name": _text(project, "name"),
        "region_id": _text(project, "region_id"),
        "pg_version": _number(project, "pg_version"),
        "history_retention_seconds": _number(project, "history_retention_seconds"),
        "store_password": _flag(project, "store_passwords"),
        "autoscaling_limit_min_cu": float(defaults["autoscaling_limit_min_cu"]),
        "autoscaling_limit_max_cu": float(defaults["autoscaling_limit_max_cu"]),
        "suspend_timeout_seconds": _number(defaults, "suspend_timeout_seconds"),
        "quota": {name: _number(settings["quota"], name) for name in settings["quota"]},
        "allowed_ips": settings["allowed_ips"]["ips"],  # missing, it crashes wherever there are settings
        "allowed_ips_protected_branches_only": _flag(settings["allowed_ips"], "protected_branches_only"),
        "block_public_connections": _flag(settings, "block_public_connections"),
        "enable_logical_replication": _flag(settings, "enable_logical_replication"),
        "default_branch_id": _text(branch, "id"),
        "branch_name": _text(branch, "name"),
    } | way_in


def _branch(it: State) -> State:
    """`parent_id`, `parent_lsn` and `logical_size` may be missing."""
    when = it.get("parent_timestamp")
    return {
        "id": _text(it, "id"),
        "name": _text(it, "name"),
        "parent_id": it.get("parent_id"),
        "parent_timestamp": None if when is None else int(datetime.fromisoformat(when).timestamp()),
        "protected": _flag(it, "protected"),
    }


def _endpoint(it: State) -> State:
    first, rest = _text(it, "host").split(".", 1)
    return {
        "id": _text(it, "id"),
        "branch_id": _text(it, "branch_id"),
        "type": _text(it, "type"),
        "host": it["host"],
        "host_pooling": f"{first}-pooler.{rest}",
        "region_id": _text(it, "region_id"),
        "proxy_host": _text(it, "proxy_host"),
        "provisioner": _text(it, "provisioner"),
        "disabled": _flag(it, "disabled"),
        "autoscaling_limit_min_cu": float(it["autoscaling_limit_min_cu"]),
        "autoscaling_limit_max_cu": float(it["autoscaling_limit_max_cu"]),
        "suspend_timeout_seconds": _number(it, "suspend_timeout_seconds"),
        "pg_settings": it["settings"].get("pg_settings"),
    }


def _roles(project_id: str, branch_id: str) -> str:
    return f"/projects/{project_id}/branches/{branch_id}/roles"


def _text(it: State, name: str) -> str:
    """Where it is missing or empty, the program goes on with an empty one, and asks for it."""
    value = it[name]
    assert isinstance(value, str)
    assert value
    return value


def _number(it: State, name: str) -> int:
    value = it[name]
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    return value


def _flag(it: State, name: str) -> bool:
    value = it[name]
    assert isinstance(value, bool)
    return value


def _age(it: State) -> datetime:
    return datetime.fromisoformat(it["created_at"])
