"""What a protected branch means: the rules, their words, and the passwords of its children. Pure, but for `unprotect`.

Services ask here first, so that a refusal comes before any work. What is decided here does not depend on anybody asking:
the same rules stand in the control database as triggers (migration 0002), which raise the same words, and a test holds
both to each other. Unprotecting is the only way out, and there the database's function of that name is the only way.
What protection means for an endpoint is in `computes/protection.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloister.base.database import Transaction
from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.base.secret import Secret, new_password
from cloister.control.branches.model import Branch
from cloister.control.calling import Caller
from cloister.control.roles.names import is_platform_role
from cloister.control.roles.passwords import new_verifier
from cloister.control.roles.server import RoleState
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action
from cloister.trust.audit.events import written

# ── the words. Neon's where they are known (the first two and the expiry's), in their style where not. ──

CANNOT_DELETE: Final = "cannot delete protected branch"
CANNOT_RESET: Final = "cannot reset protected branch"
"""Reset, restore, a snapshot over it: whatever gives it other data."""
CANNOT_ARCHIVE: Final = "cannot archive protected branch"
CANNOT_MOVE: Final = "cannot move protected branch"
CANNOT_EXPIRE: Final = "Protected branch cannot have an expiration date"
EXPIRE_CODE: Final = "PROTECTED_BRANCH_EXPIRATION_NOT_ALLOWED"
CANNOT_DELETE_PROJECT: Final = "cannot delete project with protected branches"
CANNOT_MOVE_PROJECT: Final = "cannot transfer project with protected branches"
CANNOT_DELETE_ORGANIZATION: Final = "cannot delete organization with protected branches"
CANNOT_DESTROY_KEYS: Final = "cannot destroy keys of project with protected branches"
CANNOT_UNPROTECT: Final = "cannot unprotect branch without a recorded reason"

NAMES_MAX: Final = 5
# Of branches in one sentence.

UNPROTECT_REASON: Final = "asked for without a reason"
"""Neon's API has no field for one."""


# ── the rules ──


def refuse_delete(branch: Branch) -> None:
    """Soft, hard, expired, or together with others. Raises UnprocessableError."""
    _refuse(branch, CANNOT_DELETE)


def refuse_reset(branch: Branch) -> None:
    """Whatever replaces its data: reset, restore, a snapshot over it, finalize onto it. Raises UnprocessableError."""
    _refuse(branch, CANNOT_RESET)


def refuse_archive(branch: Branch) -> None:
    _refuse(branch, CANNOT_ARCHIVE)


def refuse_deleting_project(protected: Sequence[str]) -> None:
    """`protected`: the names of its protected branches, which the refusal tells. Raises UnprocessableError."""
    if protected:
        names = ", ".join(protected[:NAMES_MAX]) + ("…" if len(protected) > NAMES_MAX else "")
        raise UnprocessableError(public=f"{CANNOT_DELETE_PROJECT}: {names}")


def refuse_moving_project(protected: Sequence[str]) -> None:
    """To another organization, whose people would decide about the protection. Raises UnprocessableError."""
    if protected:
        raise UnprocessableError(f"protected: {', '.join(protected[:NAMES_MAX])}", public=CANNOT_MOVE_PROJECT)


def refuse_expiry(*, is_protected: bool) -> None:
    """For a branch that is to have an expiry: one that is protected, or to be. Raises BadRequestError."""
    if is_protected:
        error = BadRequestError(public=CANNOT_EXPIRE)
        error.code = EXPIRE_CODE
        raise error


def require_copying(caller: Caller, source: Branch) -> None:
    """Before the data of `source` comes to lie in another branch: a new child, the target of a restore, a branch made of
    a snapshot of it. Raises ForbiddenError."""
    if source.is_protected:
        caller.require(Permission.BRANCH_CREATE_FROM_PROTECTED)


def require_protection_change(caller: Caller, branch: Branch, is_protected: bool | None) -> None:
    """For a PATCH, and for a creation with `protected: true`. Raises ForbiddenError."""
    if is_protected is None or is_protected == branch.is_protected:
        return
    caller.require(Permission.BRANCH_PROTECT if is_protected else Permission.BRANCH_UNPROTECT)


# ── the only way out ──


async def unprotect(tx: Transaction, caller: Caller, branch: Branch, consent: Mapping[str, object]) -> None:
    """Take the protection away and write down who did and why, in one act of the database. Takes the audit log's lock:
    let it be the last but for events. `consent`: what was used for it (`consents.py`)."""
    event = caller.event(
        Action.BRANCH_UNPROTECT,
        project_id=branch.project_id,
        branch_id=branch.id,
        resource=branch.name,
        reason=UNPROTECT_REASON,
        details=consent,
    )
    await tx.execute("SELECT unprotect($1, $2, $3)", branch.id, *written(event))


# ── passwords of children ──


@dataclass(frozen=True, slots=True)
class Renewal:
    """A role that gets a new password."""

    name: str
    password: Secret[str]
    verifier: str


@dataclass(frozen=True, slots=True)
class Verifiers:
    """What the roles of a branch are to have, after its secrets were scrubbed. Whoever is in neither has none and cannot
    log in."""

    kept: dict[str, str]
    """Role → verifier."""
    renewed: list[Renewal]


def verifiers_of_child(theirs: Iterable[RoleState], *, is_source_protected: bool) -> Verifiers | None:
    """For a new branch made of a source with these roles. None: nothing is scrubbed, roles keep what they have."""
    return Verifiers({}, _renewed(theirs)) if is_source_protected else None


def verifiers_after_restore(
    own: Mapping[str, str], theirs: Iterable[RoleState], *, is_source_protected: bool
) -> Verifiers | None:
    """For a branch that gets the data of a source with these roles: `own` is what its roles had before (role → verifier).
    It keeps that where the source has the role too; what is new to it gets a new password."""
    if not is_source_protected:
        return None
    roles = list(theirs)
    kept = {role.name: own[role.name] for role in roles if role.name in own and _can_log_in(role)}
    return Verifiers(kept, _renewed(role for role in roles if role.name not in kept))


def _renewed(roles: Iterable[RoleState]) -> list[Renewal]:
    """A password for every role that had one, whoever made it. One that had none could not log in, and gets none: it
    would be opened by being copied."""
    renewed = []
    for role in roles:
        if _can_log_in(role):
            password = new_password()
            renewed.append(Renewal(role.name, password, new_verifier(password)))
    return renewed


def _can_log_in(role: RoleState) -> bool:
    return role.can_login and role.verifier is not None and not is_platform_role(role.name)


def _refuse(branch: Branch, words: str) -> None:
    if branch.is_protected:
        raise UnprocessableError(f"{branch.id} is protected", public=words)
