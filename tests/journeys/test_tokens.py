"""Users with tokens of another issuer, at a real database with row security: each sees their own, and can be nobody else."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.front import Front
from tests.instance import Instance, Tenant
from tests.npm import NODE_MODULES
from tests.token_issuer import AUDIENCE, token
from tests.token_server import TokenServer

pytestmark = pytest.mark.root

SCHEMA = """
CREATE ROLE authenticated LOGIN;
CREATE FUNCTION public.user_id() RETURNS text STABLE
    RETURN nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub';
CREATE TABLE notes (owner text NOT NULL DEFAULT public.user_id(), body text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes TO authenticated USING (owner = public.user_id()) WITH CHECK (owner = public.user_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO authenticated;
"""
# As docs/tokens.md has it.

SCRIPT = """
const { neon } = require('@neondatabase/serverless');
const { URL_, TOKEN, STATEMENTS } = process.env;
(async () => {
  const sql = neon(URL_, { authToken: TOKEN });
  for (const batch of JSON.parse(STATEMENTS)) {
    try {
      const done = await sql.transaction(batch.map((text) => sql.query(text)));
      console.log(JSON.stringify(done.at(-1)));
    } catch (error) { console.log(JSON.stringify({ code: error.code, message: error.message })); }
  }
})();
"""


@pytest.fixture(scope="module")
def notes(shared_instance: Instance) -> Tenant:
    tenant = shared_instance.create_project("notes")
    with tenant.connect() as owner:
        owner.execute(SCHEMA)
    return tenant


@pytest.fixture
def as_user(notes: Tenant, front: Front, instance: Instance) -> Callable[..., list[Any]]:
    """Run batches of statements with the serverless driver, unmodified, with a token; the last result of each."""

    def run(text: str, *batches: list[str]) -> list[Any]:
        done = subprocess.run(
            front.seen_by(["node", "-e", SCRIPT], f"apiauth.{instance.domain}"),
            env={
                "PATH": notes.environment["PATH"], "NODE_PATH": str(NODE_MODULES), "TOKEN": text,
                "URL_": f"postgresql://authenticated@{notes.host}/{notes.database}", "STATEMENTS": json.dumps(batches),
                "NODE_EXTRA_CA_CERTS": str(notes.ca_file),
            },
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


FORGED = '\'{"sub":"ada"}\''
COUNT = "SELECT count(*)::int AS n FROM notes"


def test_each_user_sees_their_own_and_can_be_nobody_else(
    instance: Instance, notes: Tenant, issuer: TokenServer, as_user: Callable[..., list[Any]]
) -> None:
    collection = f"/projects/{notes.project_id}/jwks"
    asked = {
        "jwks_url": issuer.jwks_url,
        "provider_name": "Test",
        "jwt_audience": AUDIENCE,
        "role_names": ["authenticated"],
    }
    (refused,) = as_user(token(), [COUNT])
    assert refused == {"code": "28000", "message": 'token authentication failed for user "authenticated"'}

    made = instance.http.post(collection, json=asked)
    assert made.status_code == 201, made.text
    assert made.json()["operations"] == []
    assert instance.http.get(collection).json() == {"jwks": [made.json()["jwks"]]}

    ada, bob = token(sub="ada"), token("RS256", sub="bob")
    assert as_user(ada, ["INSERT INTO notes (body) VALUES ('mine')", COUNT]) == [[{"n": 1}]]
    seen = as_user(
        bob,
        [COUNT],
        [f"SET LOCAL request.jwt.claims = {FORGED}", COUNT],
        [f"SELECT set_config('request.jwt.claims', {FORGED}, true)", COUNT],
        [f"SELECT set_config('request.jwt.claims', {FORGED}, false), (SELECT count(*) FROM notes)"],
        ["INSERT INTO notes (owner, body) VALUES ('ada', 'not mine')"],
        ["RESET ALL", COUNT],
        [COUNT],
    )
    assert [it.get("code") if isinstance(it, dict) else it for it in seen] == [
        [{"n": 0}], "42501", "42501", "42501", "42501", [{"n": 0}], [{"n": 0}],
    ]  # fmt: skip
    assert {it["message"] for it in seen[1:4]} == {"the claims of a token cannot be changed"}

    gone = instance.http.delete(f"{collection}/{made.json()['jwks']['id']}")
    assert gone.status_code == 200
    assert as_user(ada, [COUNT]) == [refused]


def test_a_url_that_leads_inside_is_refused(instance: Instance, notes: Tenant) -> None:
    for url in ("http://127.0.0.1/jwks", "https://169.254.169.254/latest/meta-data", "https://10.0.0.1/jwks"):
        asked = {"jwks_url": url, "provider_name": "Test"}
        answer = instance.http.post(f"/projects/{notes.project_id}/jwks", json=asked)
        assert answer.status_code == 400, answer.text
        assert answer.json()["message"].startswith("jwks_url cannot be used: ")
