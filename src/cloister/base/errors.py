"""One tree of errors, with two faces and one kind each.

`str(error)` is for our log. `error.public` is for whoever asked, and never holds a secret, a path or an address of
ours. `error.kind` says what sort of refusal it is; what that is called in HTTP or in SQLSTATE is decided in `edge/`.
"""

from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What sort of refusal. Each front door maps every kind; a test holds them to it."""

    BAD_REQUEST = "bad_request"
    """The request cannot be read, or says something that cannot be."""
    UNAUTHENTICATED = "unauthenticated"
    """We do not know who asks."""
    FORBIDDEN = "forbidden"
    """We know, and they may not."""
    NOT_FOUND = "not_found"
    """It is not there, or this principal may not know that it is."""
    CONFLICT = "conflict"
    """It is there already, or in a state that does not allow this."""
    BUSY = "busy"
    """Another operation holds it: ask again in a moment."""
    UNPROCESSABLE = "unprocessable"
    """Understood, and against a rule (a protected branch, the last role …)."""
    PRECONDITION = "precondition"
    """A setting rules this out (stored passwords are off …)."""
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    """A part we need does not answer. Worth a retry."""
    EXHAUSTED = "exhausted"
    """No room: disk, memory, connections."""
    INTERNAL = "internal"
    """Our fault."""


RETRYABLE: frozenset[Kind] = frozenset({Kind.BUSY, Kind.UNAVAILABLE, Kind.RATE_LIMITED, Kind.INTERNAL})


class CloisterError(Exception):
    """The root. A subclass states `kind` and `public`; an instance may give a more exact public sentence."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    public: str = "internal error"
    code: str = ""
    """A machine-readable word for API clients, where Neon has one (for instance `PROTECTED_BRANCH…`)."""

    def __init__(self, detail: str = "", *, public: str | None = None) -> None:
        if public is not None:
            self.public = public
        super().__init__(detail or self.public)

    @property
    def may_retry(self) -> bool:
        """True if the same request may succeed later without anybody changing it."""
        return self.kind in RETRYABLE


class BadRequestError(CloisterError):
    kind = Kind.BAD_REQUEST
    public = "bad request"


class InvalidIdError(BadRequestError):
    """A text that cannot be the id or name it is given for."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"invalid {what} {text[:80]!r}", public=f"invalid {what}")


class UnauthenticatedError(CloisterError):
    kind = Kind.UNAUTHENTICATED
    public = "authentication required"


class ForbiddenError(CloisterError):
    kind = Kind.FORBIDDEN
    public = "permission denied"


class NotFoundError(CloisterError):
    kind = Kind.NOT_FOUND
    public = "not found"


class ConflictError(CloisterError):
    kind = Kind.CONFLICT
    public = "already exists"


class BusyError(CloisterError):
    """Neon's RUNNING_OPERATIONS: HTTP 423."""

    kind = Kind.BUSY
    public = "project already has running conflicting operations, scheduling of new ones is prohibited"


class UnprocessableError(CloisterError):
    kind = Kind.UNPROCESSABLE
    public = "the request is against a rule"


class PreconditionError(CloisterError):
    kind = Kind.PRECONDITION
    public = "a setting rules this out"


class RateLimitedError(CloisterError):
    kind = Kind.RATE_LIMITED
    public = "too many requests"


class UnavailableError(CloisterError):
    kind = Kind.UNAVAILABLE
    public = "temporarily unavailable"


class ExhaustedError(CloisterError):
    kind = Kind.EXHAUSTED
    public = "no space left"


class InternalError(CloisterError):
    kind = Kind.INTERNAL
    public = "internal error"


def from_kind(kind: Kind, detail: str, public: str, code: str = "") -> CloisterError:
    """Rebuild an error that crossed a process boundary as (kind, detail, public, code)."""
    error = _BY_KIND[kind](detail, public=public)
    error.code = code
    return error


_BY_KIND: dict[Kind, type[CloisterError]] = {
    cls.kind: cls
    for cls in (
        BadRequestError,
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        BusyError,
        UnprocessableError,
        PreconditionError,
        RateLimitedError,
        UnavailableError,
        ExhaustedError,
        InternalError,
    )
}
