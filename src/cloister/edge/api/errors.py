"""What a refusal is called in HTTP.

Each `Kind` has one status. The body is Neon's `GeneralError`: `{"request_id", "code", "message"}`; the message is the
error's public face, so no traceback, path, address or secret of ours leaves by this way.
"""

import math
from typing import Final

import msgspec
from starlette.responses import Response

from cloister.base.errors import CloisterError, Kind, RateLimitedError, UnprocessableError
from cloister.control.passkeys.model import PasskeyRefusedError
from cloister.edge.api.wire.passkeys import HEADER as ASSERTION
from cloister.edge.api.wire.passkeys import Ceremony

STATUS: Final[dict[Kind, int]] = {
    Kind.BAD_REQUEST: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION: 412,
    Kind.UNPROCESSABLE: 422,
    Kind.BUSY: 423,
    Kind.RATE_LIMITED: 429,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.EXHAUSTED: 507,
}

RETRY_AFTER_S: Final = 1.0
# For 423 and 503: an operation or a restart of one of our processes takes about this long.

PASSKEY_NEEDED: Final = "PASSKEY_NEEDED"
"""The code of a 428 that holds a challenge."""

_HTTP_ONLY: Final = frozenset({404, 405, 406, 413, 415, 428, 431, 501})


class TooManyRequestsError(RateLimitedError):
    """One of the named limits of `rates.py` is used up; says when to come back."""

    def __init__(self, limit: str, retry_after_s: float) -> None:
        super().__init__(f"limit {limit}", public=f"too many requests: limit {limit}")
        self.limit = limit
        self.retry_after_s = retry_after_s


class HttpError(UnprocessableError):
    """A refusal that only HTTP knows and that has no `Kind`: wrong method, body too large, wrong content type."""

    def __init__(self, status: int, public: str, *, code: str = "", headers: dict[str, str] | None = None) -> None:
        assert status in _HTTP_ONLY
        super().__init__(public=public)
        self.status = status
        self.code = code
        self.headers = headers or {}


class PasskeyNeededError(HttpError):
    """The request may be repeated, with this signed."""

    def __init__(self, ceremony: Ceremony) -> None:
        super().__init__(
            428,
            f"this takes a passkey: {ceremony.act}. Sign the challenge, and repeat the request with the header {ASSERTION}",
            code=PASSKEY_NEEDED,
        )
        self.ceremony = ceremony


class GeneralError(msgspec.Struct, frozen=True):
    """Neon's error body."""

    request_id: str
    code: str
    message: str


class PasskeyDemand(msgspec.Struct, frozen=True):
    """Neon's error body, and what to sign."""

    request_id: str
    code: str
    message: str
    passkey: Ceremony


def reason_of(error: CloisterError) -> str:
    """A stable word for the audit log."""
    if isinstance(error, TooManyRequestsError):
        return error.limit
    if isinstance(error, PasskeyNeededError):
        return "passkey_needed"
    if isinstance(error, PasskeyRefusedError):
        return error.why
    return f"http_{error.status}" if isinstance(error, HttpError) else error.kind.value


def status_of(error: CloisterError) -> int:
    return error.status if isinstance(error, HttpError) else STATUS[error.kind]


def headers_of(error: CloisterError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, HttpError):
        headers |= error.headers
    if isinstance(error, TooManyRequestsError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif error.kind in (Kind.BUSY, Kind.UNAVAILABLE, Kind.RATE_LIMITED):
        headers["Retry-After"] = str(math.ceil(RETRY_AFTER_S))
    if error.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def response(error: CloisterError, request_id: str) -> Response:
    said = {"request_id": request_id, "code": error.code, "message": error.public}
    body: GeneralError | PasskeyDemand = (
        PasskeyDemand(**said, passkey=error.ceremony) if isinstance(error, PasskeyNeededError) else GeneralError(**said)
    )
    return json_response(msgspec.json.encode(body), status_of(error), request_id, headers_of(error))


def json_response(
    body: bytes, status: int, request_id: str, headers: dict[str, str] | None = None, *, media_type: str | None = None
) -> Response:
    """Every answer of the API leaves through here, with the headers that every answer needs."""
    answer = Response(body if status != 204 else b"", status_code=status, headers=headers)
    if status != 204:
        answer.headers["Content-Type"] = media_type or "application/json"
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Request-Id"] = request_id
    answer.headers["X-Neon-Ret-Request-Id"] = request_id
    return answer
