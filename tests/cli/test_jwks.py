"""`cloister jwks`: what it sends, what it prints, and what it warns of."""

from typing import Any

import pytest

P = "/projects/calm-forest-12345678"
ID = "22222222-3333-4444-8555-666666666666"
IT = {
    "id": ID, "jwks_url": "https://issuer.test/jwks", "provider_name": "Issuer", "jwt_audience": "shop",
    "role_names": ["authenticated"], "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [{"id": "calm-forest-12345678", "name": "shop"}]}))
    api.on("GET", f"{P}/branches", (200, {"branches": [{"id": "br-calm-lake-bbbbbbbb", "name": "dev"}]}))
    api.on("GET", f"{P}/jwks", (200, {"jwks": [IT]}))
    api.on("POST", f"{P}/jwks", (201, {"jwks": IT, "operations": []}))
    api.on("DELETE", f"{P}/jwks/{ID}", (200, IT))


def test_all_that_is_said_is_sent(api: Any, cloister: Any) -> None:
    said = "--provider Issuer --audience shop --issuer https://issuer.test --role app --role web --branch dev".split()
    done = cloister("jwks", "add", "https://issuer.test/jwks", *said)
    assert done.code == 0, done.err
    assert api.bodies("POST") == [
        {
            "jwks_url": "https://issuer.test/jwks", "provider_name": "Issuer", "jwt_audience": "shop",
            "jwt_issuer": "https://issuer.test", "role_names": ["app", "web"], "branch_id": "br-calm-lake-bbbbbbbb",
        }
    ]  # fmt: skip
    assert "audience (aud)" not in done.err


def test_nothing_that_was_not_said_is_sent_and_the_audience_is_missed(api: Any, cloister: Any) -> None:
    done = cloister("jwks", "add", "https://issuer.test/jwks", "--provider", "Issuer")
    assert api.bodies("POST") == [{"jwks_url": "https://issuer.test/jwks", "provider_name": "Issuer"}]
    assert "Tokens that have an audience (aud) will be refused" in done.err


def test_they_are_listed_and_deleted(cloister: Any) -> None:
    assert cloister("jwks", "list", "-o", "json").json == [IT]
    assert ID in cloister("jwks", "list").out
    assert cloister("jwks", "delete", ID, "-o", "json").json == IT


def test_a_refusal_is_one_line(api: Any, cloister: Any) -> None:
    text = "jwks_url cannot be used: it leads to no public address on port 443"
    api.on("POST", f"{P}/jwks", (400, {"code": "", "message": text, "request_id": ""}))
    done = cloister("jwks", "add", "https://10.0.0.1/jwks", "--provider", "Issuer")
    assert (done.code, done.err.strip()) == (1, f"cloister: {text}")
