"""What is an organization's and no project's: its settings, its members, what groups give, its accounts for machines.

What must stay true: the key that comes with a service account is dropped, as a role's password is, and soon opens nothing.
"""

from typing import Any, Final

from cloister.cli.api import Json, segment
from cloister.cli.config.applying import UNSEEN_KEY_DAYS, put_settings
from cloister.cli.config.nouns import KINDS, MEMBER_ROLES, Value
from cloister.cli.config.platform import Platform as Configured
from cloister.cli.failure import CommandError
from cloister.cli.terraform.platform import Platform
from cloister.cli.terraform.resource import (
    ID,
    Listed,
    Made,
    Resource,
    State,
    form_of,
    given,
    name_of,
    named,
    normal,
    settings,
)
from cloister.cli.terraform.schema import Attribute, Schema, Type, Use

ORG_ID: Final = Attribute(
    "org_id", use=Use.KEPT, replaces=True, text="The organization. Default: as the provider has it, or the only one."
)


def _org_id(platform: Platform, state: State) -> str:
    return str(given(state, "org_id").get("org_id") or platform.org_id)


class Organization(Resource):
    """It is there, and stays: a resource says what holds in it."""

    name = "organization"
    identity = ("org_id",)
    stays = True
    schema = Schema(
        "An organization's settings: how often keys are rotated, whether passkeys are demanded, and consents to copies of protected "
        "branches, access reviews, for how long records are kept. They stay as they are when this resource goes.",
        (ID, ORG_ID, *settings("organization")),
    )

    def create(self, platform: Platform, wanted: State) -> Made:
        return Made({"org_id": _org_id(platform, wanted)})

    def read(self, platform: Platform, state: State) -> State | None:
        org_id, there = _org_id(platform, state), Configured(platform.api, _org_id(platform, state))
        told: State = {"id": org_id, "org_id": org_id}
        for call in dict.fromkeys(each.call for each in KINDS["organization"].settings):
            found = there.organization_settings(call)
            for each in KINDS["organization"].settings:
                if each.call == call:
                    told[name_of(each.path)] = self._told(each.path, found.get(each.path))
        return told

    def change(self, platform: Platform, state: State, changed: State) -> None:
        """What is put says all that the call is about, so what stays goes along."""
        now = {**state, **changed}
        for call in dict.fromkeys(each.call for each in KINDS["organization"].settings):
            mine = [each.path for each in KINDS["organization"].settings if each.call == call]
            if not any(name_of(path) in changed for path in mine):
                continue
            said = {path: normal(self.attribute(name_of(path)), now[name_of(path)]) for path in mine}
            said = {path: value for path, value in said.items() if value is not None}
            platform.finish(put_settings(platform.api, now["org_id"], call, said, "Terraform"))

    def delete(self, platform: Platform, state: State) -> None:  # noqa: ARG002 - never asked for
        raise AssertionError("it stays")

    def _told(self, path: str, value: Value | None) -> Any:
        """What may be a number or a word is a text here."""
        return str(value) if value is not None and self.attribute(name_of(path)).type is Type.TEXT else value


class Member(Listed):
    name = "member"
    field = "members"
    identity = ("org_id", "email")
    schema = Schema(
        "Somebody's role in the organization. They have an account already; who has a role by a group keeps it from there.",
        (
            ID,
            ORG_ID,
            Attribute("email", replaces=True, form=named("member")),
            Attribute("role", form=form_of("member", "role"), text=f"One of {', '.join(MEMBER_ROLES)}."),
        ),
    )

    def path(self, state: State) -> str:
        return f"/organizations/{segment(state['org_id'])}/members"

    def is_it(self, listed: Json, state: State) -> bool:
        return bool(listed["user"]["email"].lower() == state["email"].lower())

    def create(self, platform: Platform, wanted: State) -> Made:
        identity = {"org_id": _org_id(platform, wanted), "email": wanted["email"]}
        invitation = {"email": wanted["email"], "role": wanted["role"]}
        platform.api.post(f"/organizations/{segment(identity['org_id'])}/invitations", {"invitations": [invitation]})
        return Made(identity)

    def read(self, platform: Platform, state: State) -> State | None:
        if (found := self.found(platform, state)) is None:
            return None
        member = found["member"]
        return {
            "id": member["id"],
            "org_id": state["org_id"],
            "email": found["user"]["email"],
            "role": member["role"],
        }

    def change(self, platform: Platform, state: State, changed: State) -> None:
        platform.api.patch(f"{self.path(state)}/{segment(state['id'])}", {"role": changed["role"]})


class Group(Listed):
    name = "group"
    field = "groups"
    identity = ("org_id", "issuer", "group")
    schema = Schema(
        "What a group of an issuer's gives in the organization, to whoever logs in there. Another role, or none, ends the sessions that lived of it.",
        (
            ID,
            ORG_ID,
            Attribute("issuer", replaces=True, text="By the name that it has here."),
            Attribute("group", replaces=True, text="As the issuer's tokens say it."),
            *settings("group"),
        ),
    )

    def path(self, state: State) -> str:
        return f"/cloister/organizations/{segment(state['org_id'])}/groups"

    def is_it(self, listed: Json, state: State) -> bool:
        return bool((listed["issuer"], listed["group"]) == (state["issuer"], state["group"]))

    def create(self, platform: Platform, wanted: State) -> Made:
        """What is mapped already would get this role: that is somebody else's resource, or an import."""
        identity = {"org_id": _org_id(platform, wanted), "issuer": wanted["issuer"], "group": wanted["group"]}
        if self.found(platform, identity) is not None:
            raise CommandError(f"the group {wanted['group']} is mapped already: import it")
        self._map(platform, identity, wanted["role"])
        return Made(identity)

    def read(self, platform: Platform, state: State) -> State | None:
        if (found := self.found(platform, state)) is None:
            return None
        return {name: found[name] for name in ("id", "issuer", "group", "role")} | {"org_id": state["org_id"]}

    def change(self, platform: Platform, state: State, changed: State) -> None:
        self._map(platform, state, changed["role"])

    def _map(self, platform: Platform, state: State, role: str) -> None:
        platform.api.post(self.path(state), {"issuer": state["issuer"], "group": state["group"], "role": role})


class ServiceAccount(Listed):
    name = "service_account"
    field = "service_accounts"
    identity = ("org_id", "name")
    schema = Schema(
        "An account for a machine. Its first key is seen by nobody, and ends after a day: `cloister service-accounts rotate NAME` gives one to "
        "whoever deploys what uses it.",
        (
            ID,
            ORG_ID,
            Attribute("name", replaces=True),
            Attribute(
                "role",
                use=Use.KEPT,
                form=form_of("service_account", "role"),
                text="In the whole organization. Default: collaborator, which has the projects granted alone.",
            ),
            Attribute(
                "grants",
                Type.TABLE,
                Use.KEPT,
                form=form_of("service_account", "grants"),
                text="Projects, by their id, and the role in each.",
            ),
            Attribute(
                "owner",
                use=Use.KEPT,
                form=form_of("service_account", "owner"),
                text="Who answers for it. Default: whose key makes it.",
            ),
            Attribute("disabled", Type.FLAG, Use.KEPT),
        ),
    )

    def path(self, state: State) -> str:
        return f"/cloister/organizations/{segment(state['org_id'])}/service_accounts"

    def is_it(self, listed: Json, state: State) -> bool:
        return bool(listed["name"] == state["name"])

    def create(self, platform: Platform, wanted: State) -> Made:
        identity = {"org_id": _org_id(platform, wanted), "name": wanted["name"]}
        body = {
            "name": wanted["name"],
            "key_days": UNSEEN_KEY_DAYS,
            **self._body(given(wanted, "role", "grants", "owner")),
        }
        platform.api.post(self.path(identity), body)
        return Made(identity)

    def read(self, platform: Platform, state: State) -> State | None:
        if (found := self.found(platform, state)) is None:
            return None
        return {
            "id": found["id"],
            "org_id": state["org_id"],
            "name": found["name"],
            "role": found["role"],
            "grants": {each["project_id"]: each["role"] for each in found["grants"]},
            "owner": found["owner"],
            "disabled": found.get("disabled_at") is not None,
        }

    def change(self, platform: Platform, state: State, changed: State) -> None:
        said = self._body(given(changed, "role", "grants", "owner", "disabled"))
        platform.api.patch(f"{self.path(state)}/{segment(state['id'])}", said)

    @staticmethod
    def _body(said: Json) -> Json:
        grants = said.pop("grants", None)
        listed = [{"project_id": each, "role": role} for each, role in sorted((grants or {}).items())]
        return said | ({} if grants is None else {"grants": listed})
