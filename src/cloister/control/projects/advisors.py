"""What an auditor would say about a project: findings about its settings, branches and roles, from rows alone. Pure.

Each finding is about one thing and says what was found, why it matters, and where it is explained. A finding that no longer
holds is no longer there; nothing is stored. What lies inside a tenant's databases (functions, grants, row security) is not
looked at: the platform reads no tenant's schema unasked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cloister.base.ipallow import AllowList
from cloister.base.tags import KEPT
from cloister.control.branches.model import Branch
from cloister.control.projects.model import Project
from cloister.control.roles.model import Role

SHORT_HISTORY_S: Final = 86_400
# Neon's default. With less, a mistake of Friday is past mending on Saturday.

WIDE_BITS: Final = {4: 24, 6: 112}
"""IP version → the binary logarithm of how many addresses are more than any one organization has: a /8, a /16."""


class Severity(IntEnum):
    INFO = 1
    WARN = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    title: str
    severity: Severity
    is_external: bool
    """About who can reach the data from outside, rather than what happens inside."""
    description: str
    explained_in: str
    """A page of docs/."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: Check
    detail: str
    about: tuple[tuple[str, str], ...] = ()
    """Ids and names of what it is about."""

    @property
    def key(self) -> str:
        return "/".join((self.check.name, *(value for _, value in self.about)))


@dataclass(frozen=True, slots=True)
class Posture:
    """Everything that is looked at."""

    project: Project
    branches: Sequence[Branch]
    roles: Sequence[Role]
    """Of all branches."""


OPEN_TO_ALL: Final = Check(
    "open_to_all_addresses",
    "Every address may connect",
    Severity.WARN,
    True,
    "Without a list of allowed addresses a password is all that stands between the internet and the data.",
    "connecting.md",
)
WIDE_RANGE: Final = Check(
    "wide_address_range",
    "The list of allowed addresses holds a very wide range",
    Severity.WARN,
    True,
    "A range this wide keeps nobody out.",
    "connecting.md",
)
OPEN_BRANCHES: Final = Check(
    "unprotected_branches_open",
    "The list of allowed addresses leaves branches out",
    Severity.INFO,
    True,
    "The list holds for protected branches only; copies of their data may lie in others.",
    "protected-branches.md",
)
DEFAULT_UNPROTECTED: Final = Check(
    "default_branch_unprotected",
    "The default branch is not protected",
    Severity.WARN,
    False,
    "Whoever may work on the project can delete or reset the branch that everything else comes from.",
    "protected-branches.md",
)
TAGGED_UNPROTECTED: Final = Check(
    "tagged_branch_unprotected",
    "A branch with data about people, or that customers rely on, is not protected",
    Severity.ERROR,
    False,
    "Whoever may work on the project can delete it, reset it and copy it.",
    "tags.md",
)
SHARED_PASSWORD: Final = Check(
    "password_shared_with_child",
    "A branch's role has the password that it has on the branch's parent",
    Severity.WARN,
    False,
    "A copy for tests opens with the password of what it was copied from, and the other way round. Children of protected"
    " branches get passwords of their own.",
    "protected-branches.md",
)
STORED_PASSWORDS: Final = Check(
    "passwords_stored",
    "Passwords are kept so that they can be revealed",
    Severity.INFO,
    False,
    "They are encrypted, and every look at one is recorded; but what is not kept cannot be shown to anybody.",
    "passwords.md",
)
SHORT_HISTORY: Final = Check(
    "history_too_short",
    "The history is too short to come back from a mistake",
    Severity.WARN,
    False,
    "A branch can be restored to any moment of its history, and to none before.",
    "branches.md",
)


def findings(posture: Posture) -> list[Finding]:
    """The gravest first."""
    found = [finding for look in _LOOKS for finding in look(posture)]
    return sorted(found, key=lambda it: (-it.check.severity, it.key))


def _addresses(posture: Posture) -> Iterator[Finding]:
    settings = posture.project.settings
    if settings.block_public_connections:
        return
    allowed = settings.allowed_ips
    if not allowed.ips:
        yield Finding(OPEN_TO_ALL, "The project has no list of allowed addresses.")
        return
    for entry in allowed.ips:
        if _is_wide(entry):
            yield Finding(WIDE_RANGE, f"The list holds {entry}.", (("entry", entry),))
    if allowed.protected_branches_only:
        for branch in posture.branches:
            if not branch.is_protected:
                yield Finding(OPEN_BRANCHES, f"Branch {branch.name} accepts connections from everywhere.", _of(branch))


def _is_wide(entry: str) -> bool:
    (allowed,) = AllowList.read([entry]).ranges or (None,)
    if allowed is None:
        return False
    free_bits = WIDE_BITS[allowed.first.version]
    return int(allowed.last) - int(allowed.first) + 1 >= 1 << free_bits


def _protection(posture: Posture) -> Iterator[Finding]:
    for branch in posture.branches:
        if branch.is_protected:
            continue
        tags = KEPT & (branch.tags | posture.project.tags)
        if tags and branch.expires_at is None and (branch.is_default or branch.parent_id is None):
            detail = f"Branch {branch.name} is tagged {' and '.join(sorted(tags))} and is not protected."
            yield Finding(TAGGED_UNPROTECTED, detail, _of(branch))
        elif branch.is_default:
            yield Finding(DEFAULT_UNPROTECTED, f"Branch {branch.name} is not protected.", _of(branch))


def _passwords(posture: Posture) -> Iterator[Finding]:
    if posture.project.store_passwords:
        yield Finding(STORED_PASSWORDS, "The project stores passwords.")
    verifiers = {(role.branch_id, role.name): role.verifier for role in posture.roles if role.can_login}
    for branch in posture.branches:
        for (branch_id, name), verifier in verifiers.items():
            if branch.parent_id is None or branch_id != branch.id or verifier is None:
                continue
            if verifiers.get((branch.parent_id, name)) == verifier:
                detail = f"Role {name} has the same password on branch {branch.name} and on the branch's parent."
                yield Finding(SHARED_PASSWORD, detail, (*_of(branch), ("role_name", name)))


def _history(posture: Posture) -> Iterator[Finding]:
    seconds = posture.project.history_retention_seconds
    if seconds < SHORT_HISTORY_S:
        yield Finding(SHORT_HISTORY, f"History is kept for {seconds} seconds.")


def _of(branch: Branch) -> tuple[tuple[str, str], ...]:
    return (("branch_id", branch.id),)


_LOOKS: Final[tuple[Callable[[Posture], Iterator[Finding]], ...]] = (
    _addresses,
    _protection,
    _passwords,
    _history,
)
