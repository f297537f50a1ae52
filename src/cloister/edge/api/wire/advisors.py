"""Findings about a project, as Neon's advisors give them."""

from cloister.control.projects.advisors import Finding
from cloister.edge.api.wire.common import Wire


class AdvisorIssue(Wire, frozen=True, kw_only=True):
    name: str
    title: str
    level: str
    facing: str
    categories: list[str]
    description: str
    detail: str
    remediation: str
    """Where in Cloister's documentation it is explained."""
    metadata: dict[str, str]
    cache_key: str


class AdvisorIssues(Wire, frozen=True, kw_only=True):
    issues: list[AdvisorIssue]


def issue(it: Finding) -> AdvisorIssue:
    return AdvisorIssue(
        name=it.check.name,
        title=it.check.title,
        level=it.check.severity.name,
        facing="EXTERNAL" if it.check.is_external else "INTERNAL",
        categories=["SECURITY"],
        description=it.check.description,
        detail=it.detail,
        remediation=f"docs/{it.check.explained_in}",
        metadata=dict(it.about),
        cache_key=it.key,
    )
