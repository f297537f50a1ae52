"""What an auditor would say about a project."""

from typing import Final, Literal

import msgspec

from cloister.control.calling import Page
from cloister.control.projects.advisors import Posture, Severity, findings
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoBody
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import advisors as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

BRANCHES_MAX: Final = 10_000
# As many as a project's longest page.


class AdvisorQuery(msgspec.Struct, frozen=True, kw_only=True):
    branch_id: str | None = None
    """Only what is about this branch, and what is about the project as a whole."""
    database_name: str | None = None
    """Understood as at Neon; no finding is about one database."""
    category: Literal["SECURITY", "PERFORMANCE"] | None = None
    """Every finding is SECURITY."""
    min_severity: Literal["INFO", "WARN", "ERROR"] = "INFO"


@endpoint("GET", "/projects/{project_id}/advisors", permission=Permission.ROLE_READ, audit=Action.ADVISOR_READ)
async def list_advisor_issues(call: Call[NoBody, AdvisorQuery]) -> wire.AdvisorIssues:
    assert call.project is not None
    query, control = call.query, call.control
    if query.database_name is not None:
        paths.database_name(query.database_name)
    branches = await control.branches.find(call.project_id, Page(BRANCHES_MAX), None)
    if query.branch_id is not None:
        await control.branches.get(call.project_id, paths.branch_id(query.branch_id))
    roles = await control.roles.find_all(call.project_id)
    found = [] if query.category == "PERFORMANCE" else findings(Posture(call.project, branches, roles))
    return wire.AdvisorIssues(
        issues=[
            wire.issue(it)
            for it in found
            if it.check.severity >= Severity[query.min_severity]
            and query.branch_id in (None, dict(it.about).get("branch_id", query.branch_id))
        ]
    )
