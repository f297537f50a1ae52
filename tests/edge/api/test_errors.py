"""Every kind of refusal has a status, and its answer has Neon's shape and only the public face."""

import json

import pytest

from cloister.base.errors import CloisterError, Kind, from_kind
from cloister.edge.api.errors import STATUS, HttpError, TooManyRequestsError, response


def test_every_kind_has_its_own_status() -> None:
    assert set(STATUS) == set(Kind)
    assert len(set(STATUS.values())) == len(STATUS)


@pytest.mark.parametrize("kind", Kind)
def test_a_refusal_shows_its_public_face_only(kind: Kind) -> None:
    answer = response(from_kind(kind, "secret detail: /var/lib/x", "a sentence", "A_CODE"), "request-1")
    assert answer.status_code == STATUS[kind]
    assert json.loads(bytes(answer.body)) == {"request_id": "request-1", "code": "A_CODE", "message": "a sentence"}


@pytest.mark.parametrize(("kind", "retry_after"), [(Kind.BUSY, "1"), (Kind.UNAVAILABLE, "1"), (Kind.NOT_FOUND, None)])
def test_what_may_be_retried_says_when(kind: Kind, retry_after: str | None) -> None:
    assert response(from_kind(kind, "", "x"), "r").headers.get("retry-after") == retry_after


def test_a_used_up_limit_says_its_name_and_when_to_come_back() -> None:
    answer = response(TooManyRequestsError("calls_per_key", 2.3), "r")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert "calls_per_key" in bytes(answer.body).decode()


def test_http_alone_knows_some_refusals() -> None:
    error: CloisterError = HttpError(405, "no", headers={"Allow": "GET"})
    answer = response(error, "r")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
