"""T6, on a whole platform: a tenant lays code wherever the platform's superuser might step, and then all of the platform's
own work is done: roles, databases, catalog, a branch from the running server (backup mode), suspend and wake.

Everything that is planted writes down as whom it ran. It must have run for its owner, and never as a superuser.
"""

from collections.abc import Iterator

import psycopg
import pytest

from tests.instance import Instance, Tenant, tail

pytestmark = pytest.mark.root

DATABASE = "neondb"

PLANT = """
CREATE TABLE public.ran (what text, is_superuser text, as_role text);
GRANT ALL ON public.ran TO PUBLIC;

CREATE FUNCTION public.record(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.ran VALUES (what, pg_catalog.current_setting('is_superuser'), current_user);
    IF pg_catalog.current_setting('is_superuser') = 'on' THEN
        EXECUTE 'ALTER ROLE neondb_owner SUPERUSER';
    END IF;
END $$;

-- What an unqualified name, or an operator, of the platform's statements could be taken for.
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('format'); RETURN pg_catalog.format($1, $2); END$$;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('format'); RETURN pg_catalog.format($1, $2, $3); END$$;
CREATE FUNCTION public.now(int DEFAULT 0) RETURNS timestamptz LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('now'); RETURN pg_catalog.now(); END$$;
CREATE FUNCTION public.substr(bytea, int, int) RETURNS bytea LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('substr'); RETURN pg_catalog.substr($1, $2, $3); END$$;
CREATE FUNCTION public.pg_backup_start(text, boolean) RETURNS pg_lsn LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('pg_backup_start'); RETURN '0/0'; END$$;
CREATE FUNCTION public.same(name, name) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END$$;
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.same);
CREATE FUNCTION public.different(oid, integer) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('<>'); RETURN true; END$$;
CREATE OPERATOR public.<> (LEFTARG = oid, RIGHTARG = integer, FUNCTION = public.different);

-- What maintenance of a table runs: an index, a default, a trigger, a policy, a view, a domain.
CREATE FUNCTION public.of_index(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('index'); RETURN $1; END$$;
CREATE FUNCTION public.of_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('trigger'); RETURN new; END$$;
CREATE FUNCTION public.of_policy() RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('policy'); RETURN true; END$$;
CREATE FUNCTION public.of_definer() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.record('definer'); END$$;
CREATE TABLE public.trap (i int);
INSERT INTO public.trap SELECT pg_catalog.generate_series(1, 200);
CREATE INDEX ON public.trap (public.of_index(i));
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON public.trap FOR EACH ROW EXECUTE FUNCTION public.of_trigger();
ALTER TABLE public.trap ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON public.trap USING (public.of_policy());
CREATE VIEW public.pg_roles AS SELECT rolname, public.of_index(1) AS ran FROM pg_catalog.pg_roles;
CREATE VIEW public.pg_database AS SELECT datname, public.of_index(2) AS ran FROM pg_catalog.pg_database;

ALTER DATABASE neondb SET search_path = public, pg_catalog;
ALTER ROLE neondb_owner SET search_path = public, pg_catalog;
"""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance("--idle-check-interval", "0.5", "--suspend-timeout", "60") as platform, tail(platform):
        yield platform


@pytest.fixture(scope="module")
def tenant(instance: Instance) -> Tenant:
    tenant = instance.create_project("planted")
    with tenant.connect() as session:
        session.execute(PLANT)
    return tenant


def ran(tenant: Tenant, *, as_superuser: bool) -> list[str]:
    with tenant.connect() as session:
        rows = session.execute(
            "SELECT DISTINCT what FROM public.ran WHERE is_superuser OPERATOR(pg_catalog.=) %s ORDER BY 1",
            ["on" if as_superuser else "off"],
        ).fetchall()
        assert session.execute(
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'neondb_owner'"
        ).fetchone() == (False,)
    return [what for (what,) in rows]


def test_the_traps_work_when_their_owner_steps_into_them(tenant: Tenant) -> None:
    with tenant.connect() as session:
        session.execute("INSERT INTO trap VALUES (1)")
        session.execute("SELECT format('a', 'b'), now(0), 'a'::name OPERATOR(public.=) 'b'::name, of_definer()")
        session.execute("VACUUM ANALYZE trap")
    assert set(ran(tenant, as_superuser=False)) >= {"index", "trigger", "format", "now", "=", "definer"}
    assert ran(tenant, as_superuser=True) == []


def test_event_triggers_cannot_be_planted(tenant: Tenant) -> None:
    with tenant.connect() as session:
        session.execute("CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
        for event in ("login", "ddl_command_start", "ddl_command_end", "sql_drop", "table_rewrite"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f"CREATE EVENT TRIGGER e ON {event} EXECUTE FUNCTION e()".encode())


def test_roles_and_databases_are_made_and_dropped_without_stepping_into_one(instance: Instance, tenant: Tenant) -> None:
    branch = f"/projects/{tenant.project_id}/branches/{tenant.branch_id}"
    instance.api("POST", f"{branch}/roles", {"role": {"name": "another"}})
    instance.settle(tenant.project_id)
    with tenant.connect() as session:
        session.execute("CREATE TABLE of_another (i int DEFAULT of_index(1)); INSERT INTO of_another VALUES (1)")
    instance.api("POST", f"{branch}/roles/another/reset_password")
    instance.settle(tenant.project_id)
    instance.api("POST", f"{branch}/databases", {"database": {"name": "more", "owner_name": "another"}})
    instance.settle(tenant.project_id)
    instance.api("DELETE", f"{branch}/databases/more")
    instance.settle(tenant.project_id)
    # Dropping it goes through every database as the superuser: REASSIGN OWNED, DROP OWNED.
    instance.api("DELETE", f"{branch}/roles/another")
    instance.settle(tenant.project_id)
    assert "another" not in {role["name"] for role in instance.api("GET", f"{branch}/roles")["roles"]}
    assert ran(tenant, as_superuser=True) == []


def test_a_branch_is_made_from_the_running_server_without_stepping_into_one(instance: Instance, tenant: Tenant) -> None:
    made = instance.api("POST", f"/projects/{tenant.project_id}/branches", {"branch": {"name": "copy"}}, expect=201)
    instance.settle(tenant.project_id)
    operations = instance.api("GET", f"/projects/{tenant.project_id}/operations")["operations"]
    assert {each["status"] for each in operations if each["branch_id"] == made["branch"]["id"]} == {"finished"}
    assert ran(tenant, as_superuser=True) == []


def test_it_is_suspended_and_woken_without_stepping_into_one(instance: Instance, tenant: Tenant) -> None:
    instance.suspend(tenant)
    assert ran(tenant, as_superuser=True) == []
