"""Who may do what: permissions.tsv, which people read and docs/access.md explains, against the shipped policies.

Every permission has a row for each thing it can be asked of. One that is new and has none fails here, as does a row for
which there is no permission any more, and a cell that says something else than the policies.
"""

import csv
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cloister.base.errors import ForbiddenError, NotFoundError
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import OF_AN_ORGANIZATION, OF_ONESELF, OF_THE_PLATFORM, Permission
from cloister.trust.access.principals import Grant, Holder, Principal

TABLE = Path(__file__).parent / "permissions.tsv"
ORGANIZATION, ELSEWHERE = "org-calm-forest-12345678", "org-wild-river-12345678"
PROJECT, OTHER_PROJECT = "calm-forest-12345678", "calm-forest-87654321"
"""Both of the organization; what is granted is granted for the first."""


def _principal(memberships: dict[str, str], granted: str = "", **more: object) -> Principal:
    grants = {PROJECT: Grant(ORGANIZATION, granted)} if granted else {}
    return Principal(UUID(int=1), 1, "ada@example.com", "Ada", memberships, grants, **more)  # type: ignore[arg-type]


PRINCIPALS = {
    "admin": _principal({ORGANIZATION: "admin"}),
    "editor": _principal({ORGANIZATION: "editor"}),
    "viewer": _principal({ORGANIZATION: "viewer"}),
    "collaborator": _principal({ORGANIZATION: "collaborator"}),
    "project admin": _principal({ORGANIZATION: "collaborator"}, "admin"),
    "project editor": _principal({ORGANIZATION: "collaborator"}, "editor"),
    "project viewer": _principal({ORGANIZATION: "collaborator"}, "viewer"),
    "viewer, project editor": _principal({ORGANIZATION: "viewer"}, "editor"),
    "organization's key": _principal({ORGANIZATION: "admin"}, holder=Holder.ORGANIZATION),
    "project's key": _principal({}, "editor", holder=Holder.PROJECT),
    "service account, editor": _principal({ORGANIZATION: "editor"}, holder=Holder.SERVICE, is_limited=True),
    "service account, project admin": _principal(
        {ORGANIZATION: "collaborator"}, "admin", holder=Holder.SERVICE, is_limited=True
    ),
    "admin, limited key": _principal({ORGANIZATION: "admin"}, is_limited=True),
    "admin, limited key, with a passkey": _principal({ORGANIZATION: "admin"}, is_limited=True, with_passkey=True),
    "operator": _principal({ELSEWHERE: "admin"}, is_operator=True),
    "operator, limited key": _principal({ELSEWHERE: "admin"}, is_operator=True, is_limited=True),
    "viewer on call": _principal({ORGANIZATION: "viewer"}, on_call=frozenset({ORGANIZATION})),
    "collaborator on call": _principal({ORGANIZATION: "collaborator"}, on_call=frozenset({ORGANIZATION})),
    "viewer on call elsewhere": _principal(
        {ORGANIZATION: "viewer", ELSEWHERE: "viewer"}, on_call=frozenset({ELSEWHERE})
    ),
    "operator on call elsewhere": _principal({ELSEWHERE: "viewer"}, is_operator=True, on_call=frozenset({ELSEWHERE})),
    "stranger": _principal({ELSEWHERE: "admin"}),
    "unknown role": _principal({ORGANIZATION: "owner"}, "owner"),
}

RESOURCES: dict[str, dict[str, Any]] = {
    "oneself": {},
    "platform": {},
    "organization": {"org_id": ORGANIZATION},
    "project": {"org_id": ORGANIZATION, "project_id": PROJECT},
    "project, pii": {"org_id": ORGANIZATION, "project_id": PROJECT, "tags": ["pii"]},
    "project, prod": {"org_id": ORGANIZATION, "project_id": PROJECT, "tags": ["prod", "protected", "team-a"]},
    "other project": {"org_id": ORGANIZATION, "project_id": OTHER_PROJECT},
}


def asked_of(permission: Permission) -> list[str]:
    if permission in OF_ONESELF:
        return ["oneself"]
    if permission in OF_THE_PLATFORM:
        return ["platform"]
    if permission in OF_AN_ORGANIZATION:
        return ["organization"]
    return ["organization", "project", "project, pii", "project, prod", "other project"]


def cells() -> dict[tuple[str, str, str], str]:
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = {}
    for row in rows:
        permission, of = row.pop("permission"), row.pop("of")
        for who, expected in row.items():
            assert (permission, of, who) not in found, f"{permission} of {of} twice"
            found[permission, of, who] = expected
    return found


CELLS = cells()
DECIDER = Decider()


def test_nothing_is_untested() -> None:
    wanted = {(it.value, of, who) for it in Permission for of in asked_of(it) for who in PRINCIPALS}
    assert set(CELLS) == wanted


@pytest.mark.parametrize(("permission", "of"), list(dict.fromkeys((name, of) for name, of, _ in CELLS)))
def test_a_row_says_what_the_policies_say(permission: str, of: str) -> None:
    decided = {}
    for who, principal in PRINCIPALS.items():
        try:
            DECIDER.authorize(principal, Permission(permission), **RESOURCES[of])
            decided[who] = "yes"
        except ForbiddenError:
            decided[who] = "403"
        except NotFoundError:
            decided[who] = "404"
    assert decided == {who: CELLS[permission, of, who] for who in PRINCIPALS}


def test_a_tag_takes_away_a_machines_way_out_and_nothing_else() -> None:
    """`prod`, and what an organization calls something, is for its own rules."""
    differs = {
        (permission, of, who)
        for permission, of, who in CELLS
        if of.startswith("project, ") and CELLS[permission, of, who] != CELLS[permission, "project", who]
    }
    assert differs == {
        ("egress:manage", "project, pii", who) for who in ("organization's key", "service account, project admin")
    }


def test_a_shift_lets_a_viewer_decide_about_access_and_do_nothing_else() -> None:
    rows = {(permission, of) for permission, of, _ in CELLS}
    differs = {row for row in rows if CELLS[*row, "viewer on call"] != CELLS[*row, "viewer"]}
    assert differs == {("access:approve", of) for of in asked_of(Permission.ACCESS_APPROVE)}
    for who, other in (
        ("collaborator on call", "collaborator"),
        ("viewer on call elsewhere", "viewer"),
        ("operator on call elsewhere", "operator"),
    ):
        assert {row for row in rows if CELLS[*row, who] != CELLS[*row, other]} == set(), who
