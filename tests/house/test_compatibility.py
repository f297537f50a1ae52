"""docs/compatibility.md says what is tested, and what is tested is there; docs/connecting.md says how, driver by driver."""

import json
import re

from tests.house.source import ROOT

PAGE = (ROOT / "docs/compatibility.md").read_text()


def test_the_commands_that_are_said_to_work_are_those_that_are_tested() -> None:
    _, _, section = PAGE.partition("These commands are run")
    section, _, _ = section.partition("What to know:")
    said = set(re.findall("`([a-z -]+)`", section))
    source = (ROOT / "tests/journeys/test_neon_cli.py").read_text()
    tested = set(re.findall(r"\b(?:neon|nowhere|inside)(?:\.refused|\.run)?\(\"([a-z -]+)\"", source))
    for names in re.findall(r"for command in \(([^)]*)\)", source):
        tested |= set(re.findall('"([a-z -]+)"', names))
    assert said == tested
    assert len(tested) >= 45


def test_every_client_that_is_installed_is_spoken_of() -> None:
    clients = set(json.loads((ROOT / "tests/clients/package.json").read_text())["dependencies"])
    helpers = {"ws", "playwright-core", "oidc-provider"}  # what Node 20 lacks, what drives a browser, an issuer
    assert {name for name in clients - helpers if name.removesuffix("-orm") not in PAGE} == set()


SECTIONS = {
    "psql": "psql", "psycopg": "psycopg 3", "sqlalchemy": "SQLAlchemy", "asyncpg": "asyncpg", "jdbc": "JDBC",
    "pg": "node-postgres", "postgres": "Postgres.js", "prisma": "Prisma",
    "drizzle-pg": "Drizzle", "drizzle-http": "Drizzle", "drizzle-websocket": "Drizzle",
    "http": "The serverless driver", "websocket": "The serverless driver",
}  # fmt: skip
"""Of docs/connecting.md, by what the journeys call the driver."""


def test_every_driver_that_the_journeys_run_has_a_section_on_the_page_of_how_to_connect() -> None:
    assert set(SECTIONS) == _drivers_of_the_journeys()
    page = (ROOT / "docs/connecting.md").read_text()
    sections = dict(re.findall(r"^## ([^\n]*)\n+(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    for driver, heading in SECTIONS.items():
        shown = sections.get(heading, "")
        assert "```" in shown or "](serverless.md)" in shown, f"{driver}: nothing to copy under {heading!r}"


def _drivers_of_the_journeys() -> set[str]:
    node = (ROOT / "tests/clients/journeys.mjs").read_text()
    _, _, table = node.partition("const drivers = {\n")
    table, _, _ = table.partition("\n};")
    python = "".join((ROOT / f"tests/journeys/test_{name}.py").read_text() for name in ("clients", "neon_clients"))
    return {
        *re.findall(r'^  "?([a-z-]+)"?(?:: )?\(uri\)', table, flags=re.MULTILINE),
        *re.findall(r"^(?:async )?def with_([a-z]+)\(", python, flags=re.MULTILINE),
        *re.findall(r"^def test_(psql|asyncpg|jdbc)\(", python, flags=re.MULTILINE),
    }
