"""What Terraform can look up, and does not manage: data sources, and the one thing that it is shown and does not keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.terraform.platform import Platform, branch_path, project_path
from cloister.cli.terraform.resource import Resource, State
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
EPHEMERAL: Final[Mapping[str, Schema]] = {"cloister_role_password": PASSWORD}


def password(platform: Platform, asked: State) -> State:
    path = f"{branch_path(asked)}/roles/{segment(asked['role'])}/reveal_password"
    return asked | {"password": platform.api.get(path)["password"]}
