"""Columns masked, with real PostgreSQL: what they hold, what is left of what they held, and who is in the way."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.base.ids import new_endpoint_id, new_timeline_id, parse_project_id, parse_timeline_id
from cloister.node.commands import (
    CloneTimeline,
    ComputeExited,
    ComputeSpec,
    DeleteTimeline,
    MaskRule,
    MaskTimeline,
    StopCompute,
)
from cloister.node.timelines.layout import Layout
from tests.fix_computes import EnginesOnHost, connect
from tests.node.real_node import UID, Node, running_node

pytestmark = pytest.mark.root

CANARY = "canary-that-nobody-may-find"

DATA = f"""
    CREATE SCHEMA "o'dd schema";
    CREATE TABLE public.people (
        id bigint PRIMARY KEY, email text UNIQUE, name varchar(40), born date, note text, salary numeric(10, 2));
    INSERT INTO public.people SELECT i, '{CANARY}-' || i || '@example.com', '{CANARY}-' || i, '1970-01-01', 'kept', i
      FROM generate_series(1, 500) i;
    INSERT INTO public.people VALUES (501, NULL, NULL, NULL, NULL, NULL);
    DELETE FROM public.people WHERE id BETWEEN 100 AND 110;
    CREATE INDEX ON public.people (lower(email));
    CREATE TABLE "o'dd schema"."pa rted" (k int, secret text) PARTITION BY RANGE (k);
    CREATE TABLE "o'dd schema".low PARTITION OF "o'dd schema"."pa rted" FOR VALUES FROM (0) TO (10);
    CREATE TABLE "o'dd schema".high PARTITION OF "o'dd schema"."pa rted" FOR VALUES FROM (10) TO (20);
    INSERT INTO "o'dd schema"."pa rted" SELECT i, '{CANARY}' FROM generate_series(0, 19) i;
    CREATE MATERIALIZED VIEW public.a_second AS SELECT 1 AS x, ''::text AS email;
    DROP MATERIALIZED VIEW public.a_second;
    CREATE MATERIALIZED VIEW public.z_first AS SELECT email FROM public.people;
    CREATE VIEW public.between AS SELECT email FROM public.z_first;
    CREATE MATERIALIZED VIEW public.a_second AS SELECT email FROM public.between;
    CREATE TABLE public.copies (email text);
    CREATE FUNCTION public.copy() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.copies VALUES (OLD.email); RETURN NEW; END $$;
    CREATE TRIGGER copied BEFORE UPDATE ON public.people FOR EACH ROW EXECUTE FUNCTION public.copy();
    ANALYZE;
    ALTER TABLE public.people ALTER email SET STATISTICS 0;
"""


def directory_of(node: Node, spec: ComputeSpec) -> Path:
    found = node.agent._volumes.mountpoint(parse_project_id(spec.project_id))
    assert found is not None
    return Layout(found).timeline(parse_timeline_id(spec.timeline_id)).directory


@pytest.fixture
async def node(engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch) as node:
        yield node


def rule(column: str, function: str | None = None, *, table: str = "people", **more: Any) -> MaskRule:
    return MaskRule(
        **{"database": "neondb", "schema": "public", "table": table, "column": column, "function": function} | more
    )


async def parent_with(node: Node, statements: str) -> ComputeSpec:
    parent = await node.create()
    admin = await connect(await node.start(parent), database="neondb")
    await admin.execute("SET SESSION AUTHORIZATION neondb_owner")
    await admin.execute(statements)
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))
    return parent


async def masked(node: Node, parent: ComputeSpec, *rules: MaskRule) -> ComputeSpec:
    """As the API does it: a frozen copy, and what is made by way of it."""
    way_id, target_id = new_timeline_id(), new_timeline_id()
    clone = CloneTimeline(
        project_id=parent.project_id, source_id=parent.timeline_id, target_id=way_id, uid=UID, is_frozen=True
    )
    await node.ask(clone)
    command = MaskTimeline(
        project_id=parent.project_id, source_id=way_id, target_id=target_id, pg_version=18, uid=UID, rules=list(rules)
    )
    try:
        await node.ask(command)
        await node.ask(command)
    finally:
        await node.ask(DeleteTimeline(project_id=parent.project_id, timeline_id=way_id))
    return msgspec.structs.replace(parent, endpoint_id=new_endpoint_id(), timeline_id=target_id)


async def test_what_is_named_holds_something_else_and_nothing_of_before_is_in_any_file(node: Node) -> None:
    parent = await parent_with(node, DATA)
    child = await masked(
        node,
        parent,
        rule("email", "anon.pseudo_email(email)"),
        rule("name", "anon.hash(name)"),
        rule("born", "anon.random_date_between('1980-01-01', '1980-12-31')"),
        rule("secret", value="'nothing'", schema="o'dd schema", table="pa rted"),
    )
    directory = directory_of(node, child)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 900
    # (1) Before anything runs on it: tables, indexes, statistics, WAL, history.
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []

    admin = await connect(await node.start(child), database="neondb")
    assert await admin.fetchval("SELECT count(*) FROM public.people") == 490
    assert await admin.fetchval("SELECT count(*) FROM public.people WHERE email LIKE '%@example.%'") == 489
    assert await admin.fetchval("SELECT count(DISTINCT name) FROM public.people WHERE name <> ''") == 489
    assert await admin.fetchval("SELECT count(*) FROM public.people WHERE extract(year FROM born) = 1980") >= 489
    # (2) What nobody named is as it was, a row of nothing among it.
    assert await admin.fetchval("SELECT count(*) FROM public.people WHERE note = 'kept' AND salary = id") == 489
    assert await admin.fetchval("SELECT email IS NULL AND name IS NULL FROM public.people WHERE id = 501")
    assert await admin.fetchval("""SELECT count(*) FROM "o'dd schema"."pa rted" WHERE secret = 'nothing'""") == 20
    # (3) What is derived from it is new, and what a trigger would have kept is not there.
    assert await admin.fetchval("SELECT count(*) FROM public.a_second WHERE email LIKE '%@example.%'") == 489
    assert await admin.fetchval("SELECT count(*) FROM public.copies") == 0
    assert await admin.fetchval("SELECT count(*) FROM pg_stats WHERE tablename = 'people'") == 5
    # (4) Nothing of how it was done is left.
    assert await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'cloister%mask%'") == []
    assert {row[0] for row in await admin.fetch("SELECT datname FROM pg_database")} == {
        "neondb", "postgres", "template0", "template1",
    }  # fmt: skip
    await admin.execute("SET SESSION AUTHORIZATION neondb_owner; UPDATE public.people SET note = 'x' WHERE id = 1")
    assert await admin.fetchval("SELECT count(*) FROM public.copies") == 1, "the trigger is as it was"
    await admin.close()
    await node.ask(StopCompute(endpoint_id=child.endpoint_id))

    # The parent has what it had.
    admin = await connect(await node.start(parent), database="neondb")
    assert await admin.fetchval(f"SELECT count(*) FROM public.people WHERE email LIKE '{CANARY}%'") == 489
    await admin.close()


@pytest.mark.parametrize(
    ("statements", "rules", "words"),
    [
        ("", [rule("email", "anon.hash(email)", table="nowhere")], "there is no table public.nowhere"),
        ("", [rule("nothing", value="x")], "there is no column public.people.nothing"),
        ("", [rule("email", value="x", database="other")], "there is no database other"),
        ("", [rule("email", value="'one'")], "public.people cannot be masked: SQLSTATE 23505 people_email_key"),
        ("", [rule("salary", value="'no number'")], "public.people cannot be masked: SQLSTATE 22P02"),
        (
            "ALTER TABLE public.people ENABLE ALWAYS TRIGGER copied;",
            [rule("email", "anon.hash(email)")],
            "public.people has copied, which fires even while data is replicated",
        ),
        (
            "CREATE TABLE public.refers (id bigint REFERENCES public.people); INSERT INTO public.refers VALUES (1);",
            [rule("id", "anon.random_bigint_between(1000000, 2000000000000)")],
            "masked rows do not fit the foreign key refers_id_fkey",
        ),
        (
            "ALTER TABLE public.people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
            [rule("email", "anon.hash(email)")],
            "public.people cannot be masked: SQLSTATE 42501",
        ),
        (
            "CREATE MATERIALIZED VIEW public.breaks AS SELECT 1 / (position('canary' IN email)) FROM public.people WHERE email <> '';",
            [rule("email", value="NULL"), rule("name", "anon.hash(name)")],
            "",
        ),
    ],
)
async def test_a_rule_that_does_not_fit_leaves_nothing(
    node: Node, statements: str, rules: list[MaskRule], words: str
) -> None:
    parent = await parent_with(node, DATA + statements)
    if not words:
        await masked(node, parent, *rules)
        return
    with pytest.raises(UnprocessableError) as refused:
        await masked(node, parent, *rules)
    assert str(refused.value.public).strip() == words
    assert CANARY not in str(refused.value)


async def test_what_a_tenant_wrote_runs_as_nobody_but_the_tenant(node: Node) -> None:
    """A check that a rewrite executes, an index, a view; none is run by a superuser, nor learns what is before."""
    parent = await parent_with(
        node,
        DATA
        + """
        CREATE FUNCTION public.evil(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
            BEGIN EXECUTE 'ALTER ROLE neondb_owner SUPERUSER'; RETURN $1;
            EXCEPTION WHEN OTHERS THEN RETURN $1; END $$;
        CREATE FUNCTION public.evil_reset(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
            BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXECUTE 'CREATE ROLE conquered SUPERUSER'; RETURN $1;
            EXCEPTION WHEN OTHERS THEN RETURN $1; END $$;
        ALTER TABLE public.people ADD CHECK (public.evil(name) IS NOT NULL OR name IS NULL);
        CREATE INDEX ON public.people (public.evil_reset(name));
    """,
    )
    child = await masked(node, parent, rule("name", "anon.hash(name)"))
    admin = await connect(await node.start(child), database="neondb")
    assert await admin.fetch("SELECT rolname FROM pg_roles WHERE rolsuper") == [("cloister_admin",)]
    await admin.close()


async def test_what_the_owner_of_a_table_wrote_gets_no_more_than_its_owner_has(node: Node) -> None:
    """Its check is executed by the change, and would have the roles of whoever makes it."""
    parent = await node.create()
    admin = await connect(await node.start(parent), database="neondb")
    await admin.execute("CREATE ROLE low LOGIN; CREATE SCHEMA low AUTHORIZATION low")
    await admin.execute("""
        SET SESSION AUTHORIZATION low;
        CREATE FUNCTION low.grab(text) RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN
                IF current_user <> 'low' THEN
                    BEGIN EXECUTE 'GRANT neondb_owner TO low'; EXCEPTION WHEN OTHERS THEN NULL; END;
                    BEGIN EXECUTE 'SET ROLE neondb_owner'; EXCEPTION WHEN OTHERS THEN RETURN true; END;
                    RAISE EXCEPTION 'conquered';
                END IF;
                RETURN true;
            END $$;
        CREATE TABLE low.trap (word text CHECK (low.grab(word)));
        CREATE INDEX ON low.trap (word);
        INSERT INTO low.trap VALUES ('x');
    """)
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))
    child = await masked(node, parent, rule("word", value="y", schema="low", table="trap"))
    admin = await connect(await node.start(child), database="neondb")
    assert await admin.fetch("SELECT FROM pg_auth_members WHERE member = 'low'::regrole") == []
    assert await admin.fetchval("SELECT word FROM low.trap") == "y"
    await admin.close()


async def test_what_a_rule_says_is_a_value_whatever_it_looks_like(node: Node) -> None:
    """Neither a quote of ours nor one of psql's ends before its text does."""
    quotes = ("$do$", "$$", "$text$", "'", "\\'", "*/", '"')
    texts = {f"c{n}": f"x{quote}; \\! touch /tmp/out \\q {quote} :masker -- /*" for n, quote in enumerate(quotes)}
    columns = ", ".join(f"{name} text" for name in texts)
    parent = await parent_with(node, f"CREATE TABLE public.people ({columns}); INSERT INTO public.people VALUES ('a')")
    rules = [rule(name, value="'" + text.replace("'", "''") + "'") for name, text in texts.items()]
    child = await masked(node, parent, *rules)
    admin = await connect(await node.start(child), database="neondb")
    assert dict(await admin.fetchrow("SELECT * FROM public.people")) == texts
    await admin.close()


async def test_the_agent_does_not_believe_whoever_asks(node: Node) -> None:
    parent = await parent_with(node, DATA)
    for wrong in (
        [],
        [rule("email")],
        [rule("email", "anon.hash(email); DROP TABLE people")],
        [rule("email", "pg_read_file('/etc/passwd')")],
        [rule('em"ail', value="x\0")],
        [rule("email\n\\! id", value="x")],
        [rule("e" * 64, value="x")],
    ):
        with pytest.raises((BadRequestError, UnprocessableError)):
            await masked(node, parent, *wrong)


async def test_a_running_parents_copy_is_masked_as_well(node: Node) -> None:
    """Replayed first: what is in its WAL alone is masked too."""
    parent = await node.create()
    admin = await connect(await node.start(parent), database="neondb")
    await admin.execute("SET SESSION AUTHORIZATION neondb_owner")
    await admin.execute(DATA)
    await admin.close()
    node.agent._computes._computes[parent.endpoint_id].launched.program.signal(signal.SIGKILL)  # type: ignore[attr-defined]
    await node.next_event(ComputeExited)
    child = await masked(node, parent, rule("name", "anon.hash(name)"), rule("email", "anon.pseudo_email(email)"),
                         rule("secret", value="NULL", schema="o'dd schema", table="pa rted"))  # fmt: skip
    directory = directory_of(node, child)
    assert [str(path) for path in directory.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()] == []
