"""May this principal do that here? Decided by the policies beside this file, and only by them.

The policies are Cedar: an auditor reads `policies/*.cedar` and knows the rules. This file turns a question into Cedar's
terms and an answer into an error. Rules that are missing, unreadable, or do not fit the schema deny everything, and so
does a rule that fails while it is evaluated.

An operator may put rules of their own beside the shipped ones: to permit an account more than a member, or to forbid
something to everybody. They are read once, at the start.
"""

import logging
import stat
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import cedarpy

from cloister.base.errors import ForbiddenError, NotFoundError
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal

log = logging.getLogger(__name__)

SHIPPED: Final = resources.files("cloister.trust.access") / "policies"

_SEE: Final = "see"
_GROUP_OF_ROLE: Final = {"admin": "Admins", "member": "Members"}
"""What a membership makes of an account. Any other word makes it nothing."""


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
        org_id: str,
        project_id: str | None = None,
        owner_id: UUID | None = None,
    ) -> None:
        """Returns if `principal` may do `permission` in the organization, or to its project.

        Raises NotFoundError where the principal may not even know that the thing exists, ForbiddenError otherwise. That
        the project belongs to the organization is the caller's to know. For `api_key:manage`, `owner_id` is the account
        whose keys they are, a member of the organization, which is the caller's to know too; None: the principal's own.
        """
        question = _Question(principal, org_id, project_id)
        if permission is Permission.API_KEY_MANAGE:
            is_allowed = self._is_allowed(question.about_keys_of(owner_id or principal.account_id))
        else:
            is_allowed = self._is_allowed(question.about(permission.value))
        if is_allowed:
            return
        detail = f"{principal.actor} may not {permission} in {org_id}" + (f" to {project_id}" if project_id else "")
        if self._is_allowed(question.about(_SEE)):
            raise ForbiddenError(detail)
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

    def __init__(self, principal: Principal, org_id: str, project_id: str | None) -> None:
        self._account = _uid("Account", str(principal.account_id))
        members, admins = _uid("Members", org_id), _uid("Admins", org_id)
        self._people = {"members": _reference(members), "admins": _reference(admins)}
        self._members = members
        group = _GROUP_OF_ROLE.get(principal.memberships.get(org_id, ""))
        self._resource = _uid("Project", project_id) if project_id is not None else _uid("Organization", org_id)
        self._entities = [
            _entity(self._account, parents=[_uid(group, org_id)] if group else []),
            _entity(admins, parents=[members]),
            _entity(self._resource, self._people),
        ]

    def about(self, action: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return self._request(action, self._resource, {}), self._entities

    def about_keys_of(self, owner_id: UUID) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        owner = _uid("Account", str(owner_id))
        entities = (
            self._entities if owner == self._account else [*self._entities, _entity(owner, parents=[self._members])]
        )
        return self._request(Permission.API_KEY_MANAGE.value, owner, self._people), entities

    def _request(self, action: str, resource: dict[str, str], context: dict[str, Any]) -> dict[str, Any]:
        return {
            "principal": self._account,
            "action": _uid("Action", action),
            "resource": resource,
            "context": context,
        }


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
