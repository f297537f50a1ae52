"""An agent at work: the MCP SDK's own client, `cloister mcp` as it starts it, and a platform."""

import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

Start = Callable[..., AbstractAsyncContextManager["Agent"]]

# Each tries to leave or to outwit the read-only transaction. None may change a row, whatever it answers.
ESCAPES = [
    "DELETE FROM notes",
    "COMMIT; DELETE FROM notes",
    "ROLLBACK; BEGIN READ WRITE; DELETE FROM notes; COMMIT",
    "COMMIT",
    "ROLLBACK AND CHAIN",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET TRANSACTION READ WRITE",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT set_config('transaction_read_only', 'off', false), wipe()",
    "WITH gone AS (DELETE FROM notes RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM notes",
    "DO $$ BEGIN COMMIT; DELETE FROM notes; END $$",
    "DO $$ BEGIN SET TRANSACTION READ WRITE; DELETE FROM notes; END $$",
    "SELECT wipe()",
    "CALL wipe_and_commit()",
    "SELECT query_to_xml('DELETE FROM notes RETURNING 1', true, true, '')",
    "SELECT nextval('numbers')",
    "COPY notes FROM STDIN",
    "TRUNCATE notes",
    "DROP TABLE notes",
]


class Agent:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def may(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        return cast("dict[str, Any]", result.structured_content)

    async def may_not(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        return str(cast("Any", result.content[0]).text)


@pytest.fixture(scope="module")
def shop(shared_instance: Instance) -> Tenant:
    tenant = shared_instance.create_project("shop")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
        connection.execute("INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 300) AS n")
        connection.execute("CREATE SEQUENCE numbers")
        connection.execute(
            "CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
            " PERFORM set_config('transaction_read_only', 'off', false); DELETE FROM notes; RETURN 1; END $$"
        )
        connection.execute(
            "CREATE PROCEDURE wipe_and_commit() LANGUAGE plpgsql AS $$ BEGIN COMMIT; DELETE FROM notes; COMMIT; END $$"
        )
    return tenant


@pytest.fixture
def start(instance: Instance, shop: Tenant) -> Start:
    key = instance.api("POST", "/api_keys", {"key_name": "agent"})["key"]

    @asynccontextmanager
    async def started(*options: str, **environment: str) -> AsyncIterator[Agent]:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "cloister", "mcp", "--project-id", shop.project_id, *options],
            env={
                "PATH": os.environ["PATH"],
                "CLOISTER_API_HOST": f"https://db.localhost:{instance.https_port}/api/v2",
                "CLOISTER_API_KEY": key,
                "CLOISTER_CA_FILE": str(instance.paths.ca_file),
                **environment,
            },
        )
        async with Client(server) as client:
            yield Agent(client)

    return started


async def test_reading_cannot_write_whatever_the_statement_says(start: Start, shop: Tenant) -> None:
    async with start(PGPASSWORD=shop.password) as agent:
        for statement in ESCAPES:
            await agent.client.call_tool("run_sql", {"sql": statement})
        found = await agent.may("run_sql", sql="SELECT count(*)::int, last_value FROM notes, numbers GROUP BY 2")
        assert found["rows"] == [[300, "1"]]
        assert "25006" in await agent.may_not("run_sql", sql="DELETE FROM notes")
        assert "42601" in await agent.may_not("run_sql", sql="SELECT 1; SELECT 2")
        refused = await agent.may_not("run_sql", sql="DELETE FROM notes", write=True)
        assert "create_branch" in refused


async def test_a_change_is_made_on_a_branch_and_shown(start: Start, instance: Instance, shop: Tenant) -> None:
    theirs = instance.api("POST", f"/projects/{shop.project_id}/branches", {"branch": {"name": "theirs"}})["branch"][
        "id"
    ]
    async with start() as agent:
        tools = {tool.name: tool for tool in (await agent.client.list_tools()).tools}
        assert set(tools) == {
            "list_projects", "list_branches", "describe_schema", "compare_schema", "run_sql", "create_branch",
            "delete_branch",
        }  # fmt: skip
        assert [each["id"] for each in (await agent.may("list_projects"))["projects"]] == [shop.project_id]
        assert "CREATE TABLE public.notes" in (await agent.may("describe_schema"))["sql"]
        assert "no password" in await agent.may_not("run_sql", sql="SELECT 1")

        made = await agent.may("create_branch", name="try")
        assert made["expires_at"]
        await agent.may("run_sql", branch="try", write=True, sql="ALTER TABLE notes ADD COLUMN stars int")
        await agent.may("run_sql", branch="try", write=True, sql="UPDATE notes SET stars = $1", params=[3])
        found = await agent.may("run_sql", branch="try", sql="SELECT id, stars FROM notes ORDER BY id")
        assert (found["columns"], found["rows"][0], len(found["rows"])) == (["id", "stars"], [1, 3], 200)
        assert found["cut"].startswith("200 of 300 rows")
        assert "25006" in await agent.may_not("run_sql", branch="try", sql="DELETE FROM notes")
        diff = (await agent.may("compare_schema", branch="try"))["diff"]
        assert "+    stars integer" in diff.splitlines()
        assert "stars" not in (await agent.may("describe_schema"))["sql"]

        for branch in ("theirs", theirs, "main"):
            assert "was not made by this server" in await agent.may_not("delete_branch", branch=branch)
            assert "only read" in await agent.may_not("run_sql", branch=branch, write=True, sql="DELETE FROM notes")
        assert "alone" in await agent.may_not("list_branches", project_id="calm-forest-12345678")
        writable = {each["name"]: each["may_write"] for each in (await agent.may("list_branches"))["branches"]}
        assert writable == {"main": False, "theirs": False, "try": True}
        await agent.may("delete_branch", branch="try")

    with shop.connect() as connection:  # its password is the one it had
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (300,)

    await_events(
        instance, shop, {"branch.create", "branch.delete", "schema.read", "role.reset_password", "connection.closed"}
    )


def await_events(instance: Instance, shop: Tenant, wanted: set[str]) -> None:
    """Until the log has such events that name the agent's program, as the client of a call or a session's application.
    The ends of sessions are recorded in batches."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        events = instance.api("GET", f"/cloister/audit/events?project_id={shop.project_id}&limit=500")["events"]
        missing = wanted - {event["action"] for event in (each["event"] for each in events) if is_the_agents(event)}
        if not missing:
            return
        time.sleep(0.1)
    raise AssertionError(f"not recorded: {missing}")


def is_the_agents(event: dict[str, Any]) -> bool:
    details = event.get("details", {})
    client, application = str(details.get("client")), details.get("application_name")
    return client.startswith("cloister-mcp/") or application == "cloister-mcp"
