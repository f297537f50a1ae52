"""What Terraform can look up, and does not manage: data sources, and the one thing that it is shown and does not keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cloister.cli.api import ApiError, Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.terraform.platform import Platform, branch_path, project_path
from cloister.cli.terraform.resource import Resource, State, given
from cloister.cli.terraform.resources import RESOURCES
from cloister.cli.terraform.schema import Attribute, Schema, Use


@dataclass(frozen=True, slots=True)
class Source:
    """What can be looked up, and is not managed here."""

    resource: Resource
    by: tuple[str, ...]
    """What it is looked up by."""
    needed: tuple[str, ...] = ()

    @property
    def schema(self) -> Schema:
        attributes = [
            Attribute(
                each.name,
                each.type,
                Use.NEEDED if each.name in self.needed else Use.KEPT if each.name in self.by else Use.TOLD,
                each.text,
            )
            for each in self.resource.schema.attributes
            if each.name not in self.resource.said_once
        ]
        return Schema(self.resource.schema.text, tuple(attributes))

    def look(self, platform: Platform, asked: State) -> State:
        """Raises CommandError where there is none, or more than one."""
        found = [each for each in self._listed(platform, asked) if self._fits(each, asked)]
        if len(found) != 1:
            said = ", ".join(f"{name} {asked[name]}" for name in self.by if asked[name] is not None)
            raise CommandError(
                f"there are {len(found) or 'none'} with {said}" if said else f"there are {len(found)}: say which"
            )
        identity = {"project_id": asked.get("project_id"), "id": found[0]["id"]}
        state = self.resource.read(platform, identity)
        if state is None:
            raise CommandError("it is gone")
        return {name: state.get(name) for name in self.schema.types}

    def _listed(self, platform: Platform, asked: State) -> list[Json]:
        match self.resource.name:
            case "project":
                return list(platform.api.pages("/projects", "projects", org_id=platform.org_id))
            case "branch":
                branches = list(platform.api.pages(f"{project_path(asked)}/branches", "branches"))
                said = any(asked[name] is not None for name in ("id", "name"))
                return [each for each in branches if said or each.get("default")]
            case _:
                found: list[Json] = platform.api.get(f"{project_path(asked)}/endpoints").get("endpoints") or []
                return [each for each in found if asked["id"] is not None or each["type"] == "read_write"]

    def _fits(self, each: Json, asked: State) -> bool:
        return all(asked[name] is None or each.get(name) == asked[name] for name in self.by if name != "project_id")


SOURCES: Final[Mapping[str, Source]] = {
    "cloister_project": Source(RESOURCES["cloister_project"], ("id", "name")),
    "cloister_branch": Source(RESOURCES["cloister_branch"], ("id", "name"), ("project_id",)),
    "cloister_endpoint": Source(RESOURCES["cloister_endpoint"], ("id", "branch_id"), ("project_id",)),
}


PASSWORD: Final = Schema(
    "A role's password, for as long as Terraform runs and in nothing that it keeps. For projects that store passwords.",
    (
        Attribute("project_id"),
        Attribute("branch_id"),
        Attribute("role"),
        Attribute("password", use=Use.TOLD, is_sensitive=True),
    ),
)
API_KEY: Final = Schema(
    "A key of the organization's, or of one project alone, for as long as Terraform runs: it is revoked at the end, and ends by itself "
    "where nobody comes to that. It is in nothing that Terraform keeps.",
    (
        Attribute("org_id", use=Use.FREE),
        Attribute("project_id", use=Use.FREE, text="The project that it is for. Default: all of the organization's."),
        Attribute("name", text="What lists and the audit log call it."),
        Attribute("key", use=Use.TOLD, is_sensitive=True),
    ),
)
_KEY_LASTS: Final = timedelta(hours=1)
# No apply takes longer without having been given up.

EPHEMERAL: Final[Mapping[str, Schema]] = {"cloister_role_password": PASSWORD, "cloister_api_key": API_KEY}


def password(platform: Platform, asked: State) -> State:
    path = f"{branch_path(asked)}/roles/{segment(asked['role'])}/reveal_password"
    return asked | {"password": platform.api.get(path)["password"]}


def api_key(platform: Platform, asked: State) -> tuple[State, str]:
    """And which one it is, to revoke it by."""
    path = f"/organizations/{segment(asked['org_id'] or platform.org_id)}/api_keys"
    body = {"key_name": asked["name"], "expires_at": (datetime.now(UTC) + _KEY_LASTS).isoformat()}
    made = platform.api.post(path, body | given(asked, "project_id"))
    return asked | {"key": made["key"]}, f"{path}/{segment(str(made['id']))}"


def revoke_api_key(platform: Platform, opened: str) -> None:
    """`opened` comes back from Terraform, which nobody else speaks for. Revoked by hand meanwhile is revoked."""
    try:
        platform.api.delete(opened)
    except ApiError as error:
        if error.status != 404:
            raise
