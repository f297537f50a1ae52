"""May this principal do that here? Decided by the policies beside this file, and only by them.

The policies are Cedar: an auditor reads `policies/*.cedar` and knows the rules. This file turns a question into Cedar's
terms and an answer into an error. Rules that are missing, unreadable, or do not fit the schema deny everything, and so
does a rule that fails while it is evaluated.

An operator may put rules of their own beside the shipped ones: to permit an account more than a member, or to forbid
something to everybody. They are read once, at the start.
"""

import logging
import stat
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import cedarpy

from cloister.base.errors import ForbiddenError, NotFoundError
from cloister.trust.access.permissions import OF_AN_ORGANIZATION, OF_ONESELF, OF_THE_PLATFORM, Permission
from cloister.trust.access.principals import Holder, Principal

log = logging.getLogger(__name__)

SHIPPED: Final = resources.files("cloister.trust.access") / "policies"

_SEE: Final = "see"
_GROUP_OF_ROLE: Final = {"admin": "admins", "editor": "editors", "viewer": "viewers", "collaborator": "members"}
"""What a role in an organization makes of whoever has it. Any other word makes them nothing."""
_GROUP_OF_GRANT: Final = {"admin": "admins", "editor": "editors", "viewer": "viewers"}
_PLATFORM: Final = "platform"
_REFUSALS: Final = {
    Holder.PERSON: "permission denied",
    Holder.ORGANIZATION: "not allowed for organization API keys",
    Holder.PROJECT: "not allowed for project-scoped API keys",
    Holder.SERVICE: "not permitted to this service account",
}
"""The second is Neon's sentence, which its command line knows."""


class Decider:
    """Holds the parsed rules: a decision takes some 50 µs. `problem` says why everything is denied, if it is."""

    def __init__(self, policies: Traversable = SHIPPED, *, own: Path | None = None) -> None:
        """`own`: a directory with the operator's rules, which need not be there."""
        self.problem = ""
        self._rules: tuple[cedarpy.PolicySet, cedarpy.Schema] | None = None
        try:
            self._rules = _load(policies, [] if own is None else _own_texts(own))
        except (OSError, ValueError) as error:
            self.problem = f"{policies if own is None else own}: {error}"
            log.critical("every request will be denied: %s", self.problem)

    def authorize(
        self,
        principal: Principal,
        permission: Permission,
        *,
        org_id: str | None = None,
        project_id: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Returns if `principal` may do `permission`: in the organization, to its project, or, for what is asked of
        neither (`OF_ONESELF`, `OF_THE_PLATFORM`), at all. `tags`: of what of the project is asked about.

        Raises NotFoundError where the principal may not even know that the thing exists, ForbiddenError otherwise. That
        the project belongs to the organization is the caller's to know.
        """
        question = _Question(principal, permission, org_id, project_id, sorted(tags))
        if self._is_allowed(question.about(permission.value)):
            return
        detail = f"{principal.actor} may not {permission} in {org_id}" + (f" to {project_id}" if project_id else "")
        if not question.is_of_a_tenant or self._is_allowed(question.about(_SEE)):
            raise ForbiddenError(detail, public=_REFUSALS[principal.holder])
        raise NotFoundError(detail)

    def _is_allowed(self, asked: tuple[dict[str, Any], list[dict[str, Any]]]) -> bool:
        if self._rules is None:
            return False
        policies, schema = self._rules
        request, entities = asked
        result = cedarpy.is_authorized(request, policies, entities, schema)
        if errors := result.diagnostics.errors:
            # Cedar passes over a policy that fails; one that forbids would then not forbid.
            log.error("a policy failed: %s", "; ".join(errors))
            return False
        return result.allowed


class _Question:
    """A request in Cedar's terms: what is asked, and the entities that it speaks of.

    Ids are passed apart from their types, never put into Cedar text.
    """

    def __init__(
        self,
        principal: Principal,
        permission: Permission,
        org_id: str | None,
        project_id: str | None,
        tags: list[str],
    ) -> None:
        person = principal.holder is Holder.PERSON
        self._principal = _uid("Account", str(principal.account_id)) if person else _uid("Key", str(principal.key_id))
        self._context = {
            "isLimited": principal.is_limited,
            "isOnCall": org_id in principal.on_call,
            "withPasskey": principal.with_passkey,
        }
        self.is_of_a_tenant = permission not in OF_ONESELF | OF_THE_PLATFORM
        if permission in OF_ONESELF:
            self._resource, self._entities = self._principal, [_entity(self._principal)]
            return
        if permission in OF_THE_PLATFORM:
            operators = _uid("Group", f"{_PLATFORM}/operators")
            self._resource = _uid("Platform", _PLATFORM)
            self._entities = [
                _entity(self._principal, parents=[operators] if principal.is_operator else []),
                _entity(self._resource, {"operators": _reference(operators)}),
            ]
            return
        assert org_id is not None, f"{permission} is asked of an organization"
        self._ask_of_tenant(principal, org_id, None if permission in OF_AN_ORGANIZATION else project_id, tags)

    def _ask_of_tenant(self, principal: Principal, org_id: str, project_id: str | None, tags: list[str]) -> None:
        members, viewers, editors, admins = (
            _uid("Group", f"organization/{org_id}/{name}") for name in ("members", "viewers", "editors", "admins")
        )
        held = []
        if role := _GROUP_OF_ROLE.get(principal.memberships.get(org_id, "")):
            held.append(_uid("Group", f"organization/{org_id}/{role}"))
        if project_id is None:
            self._resource = _uid("Organization", org_id)
            groups = {"members": members, "viewers": viewers, "editors": editors, "admins": admins}
            inner: list[dict[str, Any]] = [
                _entity(viewers, parents=[members]),
                _entity(editors, parents=[viewers]),
                _entity(admins, parents=[editors]),
            ]
        else:
            self._resource = _uid("Project", project_id)
            groups = {name: _uid("Group", f"project/{project_id}/{name}") for name in ("viewers", "editors", "admins")}
            inner = [
                _entity(groups["editors"], parents=[groups["viewers"]]),
                _entity(groups["admins"], parents=[groups["editors"]]),
                _entity(viewers, parents=[members, groups["viewers"]]),
                _entity(editors, parents=[viewers, groups["editors"]]),
                _entity(admins, parents=[editors, groups["admins"]]),
            ]
            grant = principal.grants.get(project_id)
            if grant is not None and grant.org_id == org_id and (role := _GROUP_OF_GRANT.get(grant.role)):
                held.append(groups[role])
        self._entities = [
            _entity(self._principal, parents=held),
            *inner,
            _entity(self._resource, {name: _reference(uid) for name, uid in groups.items()} | {"tags": tags}),
        ]

    def about(self, action: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        request = {
            "principal": self._principal,
            "action": _uid("Action", action),
            "resource": self._resource,
            "context": self._context,
        }
        return request, self._entities


def _load(policies: Traversable, own: list[str]) -> tuple[cedarpy.PolicySet, cedarpy.Schema]:
    """Raises OSError or ValueError."""
    schema_text = (policies / "schema.cedarschema").read_text()
    texts = [entry.read_text() for entry in policies.iterdir() if entry.name.endswith(".cedar")]
    if not texts:
        raise ValueError("no policy")
    text = "\n".join(texts + own)
    schema = cedarpy.Schema.from_str(schema_text)
    checked = cedarpy.validate_policies(text, schema)
    if not checked.validation_passed:
        raise ValueError("; ".join(str(error) for error in checked.errors))
    return cedarpy.PolicySet.from_str(text), schema


def _own_texts(directory: Path) -> list[str]:
    """The operator's rules. Raises OSError or ValueError: a rule that may forbid something is not passed over, and one that
    anybody else could have written is none."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.name.endswith(".cedar"))
    except FileNotFoundError:
        return []
    owner = directory.parent.stat().st_uid  # the state directory's
    for path in (directory, *paths):
        status = path.lstat()
        if status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(status.st_mode):
            raise ValueError(f"{path.name} could be changed by others: it must belong to who owns {directory.parent}")
    return [path.read_text() for path in paths]


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _reference(uid: dict[str, str]) -> dict[str, Any]:
    return {"__entity": uid}


def _entity(
    uid: dict[str, str], attributes: dict[str, Any] | None = None, *, parents: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    return {"uid": uid, "attrs": attributes or {}, "parents": parents or []}
