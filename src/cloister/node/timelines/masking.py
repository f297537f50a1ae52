"""What is said to a cluster so that columns hold something else, and nothing of what they held is left in its files. Pure.

The cluster is a copy that nobody has seen yet, and is thrown away should any of this fail. Who speaks in it:

- The change of a table executes what its owner wrote (checks, expressions of indexes, casts). A masker that is a member of the owner and
  of nobody else does it, so whatever that is, it gets what its owner has.
- What is looked up, compared and rewritten executes nothing, or as its owner and without a way to become another, for PostgreSQL sees to that. MASKER_ROLE
  does it, a member of every role of the tenant and without a right besides.
- A superuser speaks only before and after, in single-user mode, where nothing of the tenant's runs.

What held the old values, and where each of them goes:

- rows and indexes, and old versions of both: every table is written anew (VACUUM FULL) after its change;
- statistics of the planner: all are deleted before the change, and gathered anew after it;
- materialized views: all that had rows are made anew, those they read first;
- copies that triggers would make: none fires, for the session is a replica's; one that fires even then is refused, and so is a rule;
- WAL: the log goes on in another segment, and the older ones are removed (`clone.tidy_wal`); history: the copy has none yet.

What is nowhere said to be masked stays as it is: other columns, large objects, names.
"""

# ruff: noqa: S608 - what is put together here are literals of this file, and expressions of protocol/masking

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import BadRequestError, InternalError, UnprocessableError
from cloister.node.commands import MaskRule
from cloister.node.timelines import scrub
from cloister.protocol.masking import Masking, MaskingError, parse

MASKER_ROLE: Final = "cloister_masker"
# The guard keeps every name with this prefix from tenants, so it is not taken.

CLIENTS: Final = f'local all "/^{MASKER_ROLE}(_[0-9]+)?$" trust\n'
"""pg_hba.conf, for the maskers alone. Nobody is in there with the server but psql."""

SERVER_SETTINGS: Final = {
    # For every session, whatever is set for a database or a role: ordinary triggers and rules do not fire.
    "session_replication_role": "replica",
    # What an error says of a row is for nobody.
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_error_verbosity": "terse",
}

_WORDS_MAX: Final = 300
_OURS: Final = re.compile(r"ERROR:\s+cloister: (.*)")
_STATE: Final = re.compile(r"ERROR:\s+([0-9A-Z]{5})$", re.MULTILINE)

_IS_TENANT: Final = "NOT starts_with(rolname, 'pg_') AND NOT starts_with(rolname, 'cloister_')"


@dataclass(frozen=True, slots=True)
class Rule:
    database: str
    schema: str
    table: str
    column: str
    masking: Masking

    @classmethod
    def of(cls, told: MaskRule) -> "Rule":
        """Raises BadRequestError."""
        names = (told.database, told.schema, told.table, told.column)
        if not all(0 < len(name.encode()) < _NAME_BYTES and _is_printable(name) for name in names):
            raise BadRequestError("a rule names what no database has")
        try:
            masking = parse(told.function, told.value, told.column)
        except MaskingError as error:
            raise BadRequestError(f"masking {told.column}: {error}") from None
        return cls(*names, masking)


_NAME_BYTES: Final = 64
# NAMEDATALEN


def before(token: str) -> bytes:
    """For scrub.DATABASE: the databases get names of ours and are told, and the maskers are there."""
    grant = "EXECUTE pg_catalog.format('GRANT %I TO %I WITH INHERIT TRUE, SET TRUE', it.rolname, {});"
    own = f"'{MASKER_ROLE}_' || it.oid"
    return scrub.lines(
        f"CREATE ROLE {MASKER_ROLE} LOGIN",
        f"DO $do$ DECLARE it record; BEGIN FOR it IN SELECT oid, rolname FROM pg_catalog.pg_authid WHERE {_IS_TENANT} LOOP "
        f"EXECUTE pg_catalog.format('CREATE ROLE %I LOGIN', {own}); {grant.format(own)} "
        + grant.format(f"'{MASKER_ROLE}'")
        + " END LOOP; END $do$",
        *scrub.names_put_aside(token),
        scrub.names_told(),
        *scrub.END,
    )


def without_statistics() -> bytes:
    """For each database in which something is masked."""
    tables = ("pg_statistic", "pg_statistic_ext_data")
    return scrub.lines(
        *(f"DELETE FROM pg_catalog.{table}" for table in tables),
        *(f"VACUUM FULL pg_catalog.{table}" for table in tables),
        *scrub.END,
    )


def after() -> bytes:
    """For scrub.DATABASE."""
    dropped = (
        "DO $do$ DECLARE name text; BEGIN FOR name IN SELECT rolname FROM pg_catalog.pg_authid "
        f"WHERE pg_catalog.starts_with(rolname, '{MASKER_ROLE}') LOOP EXECUTE pg_catalog.format('DROP ROLE %I', name); END LOOP; END $do$"
    )
    return scrub.lines(dropped, *scrub.names_given_back(), *scrub.END)


def script(rules: Iterable[tuple[str, Sequence[Rule]]], token: str, salt: str) -> bytes:
    """For psql, of the rules by the names that their databases have now. `token` and `salt` are hexadecimal, and made after the rules
    were: so no rule can have known a quote that is made of the one, and nobody knows the other afterwards."""
    quotes = _Quotes(f"$text_{token}$", f"$do_{token}$")
    return "".join(_in_database(database, theirs, quotes, salt) for database, theirs in rules).encode()


@dataclass(frozen=True, slots=True)
class _Quotes:
    text: str
    """Around what comes from a rule."""
    block: str
    """Around a block in which such a text is: what ends a block ends it wherever it stands."""

    def around(self, value: object) -> str:
        """As JSON in a literal."""
        told = json.dumps(value)
        assert self.text not in told
        assert self.block not in told
        return f"{self.text}{told}{self.text}"


def _in_database(database: str, rules: Sequence[Rule], quotes: _Quotes, salt: str) -> str:
    by_table: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        by_table.setdefault((rule.schema, rule.table), []).append(rule)
    told = {
        table: quotes.around([{"c": rule.column, "e": rule.masking.sql(rule.column, salt)} for rule in theirs])
        for table, theirs in by_table.items()
    }
    masked = [{"s": rule.schema, "t": rule.table, "c": rule.column} for rule in rules]
    here = _session(database, MASKER_ROLE)
    changes = (
        here + _change(database, quotes.around({"s": s, "t": t}), told[s, t], quotes.block) for s, t in sorted(by_table)
    )
    return "".join(changes) + here + _rest(quotes.around(masked), quotes.block)


def _session(database: str, role: str) -> str:
    return f"\\connect {database} {role}\n{_SETTINGS}\n\\set VERBOSITY terse\n"


def _change(database: str, table: str, columns: str, block: str) -> str:
    """Of one table, which is looked at before its owner's masker is let at it."""
    return f"""\
DO {block}
DECLARE
    named CONSTANT pg_catalog.jsonb := {table};
    asked CONSTANT pg_catalog.jsonb := {columns};
{_LOOK}
{block};
SELECT '{MASKER_ROLE}_' || c.relowner AS masker FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ({table}::jsonb) ->> 's' AND c.relname = ({table}::jsonb) ->> 't' \\gset
{_session(database, ":masker")}DO {block}
DECLARE
    named CONSTANT pg_catalog.jsonb := {table};
    asked CONSTANT pg_catalog.jsonb := {columns};
{_CHANGE}
{block};
"""


def _rest(masked: str, block: str) -> str:
    return f"""\
DO {block}
DECLARE
    asked CONSTANT pg_catalog.jsonb := {masked};
{_COMPARE}
{block};
\\set VERBOSITY sqlstate
WITH RECURSIVE tree(oid) AS (
    SELECT c.oid FROM pg_catalog.jsonb_to_recordset({masked}) AS it(s text, t text)
      JOIN pg_catalog.pg_namespace n ON n.nspname = it.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = it.t
     UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid)
SELECT pg_catalog.format('VACUUM (FULL) %s', oid::regclass) FROM tree JOIN pg_catalog.pg_class USING (oid)
 WHERE relkind = 'r' \\gexec
{_REFRESH} \\gexec
ANALYZE;
"""


# Whatever is set for the database.
_SETTINGS: Final = """\
SET client_min_messages = error;
SET default_transaction_read_only = off;
SET search_path = '';
SET standard_conforming_strings = on;
SET row_security = off;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET extra_float_digits = 1;
SET timezone = 'UTC';"""

# (1) What is named is there, and is a table of the tenant's with these columns. (2) Nothing fires that could keep what was there.
_LOOK: Final = """\
    target pg_catalog.oid;
    what pg_catalog.text;
BEGIN
    SELECT c.oid INTO target FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = named ->> 's' AND c.relname = named ->> 't' AND c.relkind IN ('r', 'p')
       AND NOT pg_catalog.starts_with(n.nspname, 'pg_') AND n.nspname <> 'information_schema'
       AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'cloister_masker_' || c.relowner);
    IF target IS NULL THEN
        RAISE EXCEPTION 'cloister: there is no table %.%', named ->> 's', named ->> 't';
    END IF;
    SELECT it.c INTO what FROM pg_catalog.jsonb_to_recordset(asked) AS it(c text)
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = target AND a.attname = it.c AND a.attnum > 0 AND NOT a.attisdropped) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'cloister: there is no column %.%.%', named ->> 's', named ->> 't', what;
    END IF;
    WITH RECURSIVE tree(oid) AS (
        SELECT target UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT g.tgname INTO what FROM pg_catalog.pg_trigger g JOIN tree ON tree.oid = g.tgrelid
     WHERE NOT g.tgisinternal AND g.tgenabled IN ('A', 'R')
     UNION ALL SELECT r.rulename FROM pg_catalog.pg_rewrite r JOIN tree ON tree.oid = r.ev_class
     WHERE r.ev_type = '2' AND r.ev_enabled IN ('A', 'R') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'cloister: %.% has %, which fires even while data is replicated', named ->> 's', named ->> 't', what;
    END IF;
END"""

# (3) Of what fails, no more is told than what nobody's data is in.
_CHANGE: Final = """\
    target pg_catalog.regclass := pg_catalog.format('%I.%I', named ->> 's', named ->> 't')::pg_catalog.regclass;
    changes pg_catalog.text;
    what pg_catalog.text;
    state pg_catalog.text;
BEGIN
    SELECT pg_catalog.string_agg(pg_catalog.format('%I = CAST(%s AS %s)', a.attname, it.e,
                                 pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ')
      INTO changes FROM pg_catalog.jsonb_to_recordset(asked) AS it(c text, e text)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = target AND a.attname = it.c AND a.attnum > 0;
    BEGIN
        EXECUTE pg_catalog.format('UPDATE %s SET %s', target, changes);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, what = CONSTRAINT_NAME;
    END;
    IF state IS NOT NULL THEN
        RAISE EXCEPTION 'cloister: %.% cannot be masked: SQLSTATE % %', named ->> 's', named ->> 't', state, what;
    END IF;
END"""

# (4) No row refers to one that is not there any more: PostgreSQL's triggers that see to it did not fire either.
_COMPARE: Final = """\
    one record;
    is_broken boolean;
BEGIN
    FOR one IN
        WITH RECURSIVE named(oid, name) AS (
            SELECT c.oid, it.c FROM pg_catalog.jsonb_to_recordset(asked) AS it(s text, t text, c text)
              JOIN pg_catalog.pg_namespace n ON n.nspname = it.s
              JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = it.t),
        below AS (
            SELECT * FROM named
             UNION SELECT i.inhrelid, name FROM pg_catalog.pg_inherits i JOIN below ON i.inhparent = below.oid),
        masked AS (
            SELECT * FROM below
             UNION SELECT i.inhparent, name FROM pg_catalog.pg_inherits i JOIN masked ON i.inhrelid = masked.oid)
        SELECT k.conname, k.conrelid, k.confrelid, each.present, each.same
          FROM pg_catalog.pg_constraint k CROSS JOIN LATERAL (
               SELECT pg_catalog.string_agg(pg_catalog.format('c.%I IS NOT NULL', mine.attname), ' AND ') AS present,
                      pg_catalog.string_agg(pg_catalog.format('p.%I OPERATOR(%I.%s) c.%I', theirs.attname, n.nspname,
                                            o.oprname, mine.attname), ' AND ') AS same,
                      pg_catalog.bool_or(EXISTS (SELECT FROM masked
                          WHERE (oid, name) IN ((k.conrelid, mine.attname), (k.confrelid, theirs.attname)))) AS is_masked
                 FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop))
                      AS part(c, p, op)
                 JOIN pg_catalog.pg_attribute mine ON mine.attrelid = k.conrelid AND mine.attnum = part.c
                 JOIN pg_catalog.pg_attribute theirs ON theirs.attrelid = k.confrelid AND theirs.attnum = part.p
                 JOIN pg_catalog.pg_operator o ON o.oid = part.op
                 JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace) each
         WHERE k.contype = 'f' AND k.convalidated AND each.is_masked AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint up WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
    LOOP
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM %s c WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s))',
                                  one.conrelid::pg_catalog.regclass, one.present, one.confrelid::pg_catalog.regclass, one.same)
           INTO is_broken;
        IF is_broken THEN
            RAISE EXCEPTION 'cloister: masked rows do not fit the foreign key %', one.conname;
        END IF;
    END LOOP;
END"""

# Materialized views that had rows, those that are read by others first.
_REFRESH: Final = """\
WITH RECURSIVE reads(view, read) AS (
    SELECT DISTINCT r.ev_class, d.refobjid FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
       AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class),
depths(view, read, depth) AS (
    SELECT view, read, 1 FROM reads
     UNION SELECT depths.view, reads.read, depth + 1 FROM depths JOIN reads ON reads.view = depths.read)
SELECT pg_catalog.format('REFRESH MATERIALIZED VIEW %s', c.oid::regclass) FROM pg_catalog.pg_class c
  LEFT JOIN (SELECT view, pg_catalog.max(depth) AS depth FROM depths GROUP BY view) d ON d.view = c.oid
 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY d.depth NULLS FIRST, c.oid"""


def require_masked(code: int, output: str) -> None:
    """Raises UnprocessableError with what is wrong with a rule, and no word that a row could have said."""
    if code == 0:
        return
    if (found := _OURS.search(output)) is not None:
        shown = "".join(it if unicodedata.category(it)[0] != "C" else " " for it in found[1])
        raise UnprocessableError(public=shown.strip()[:_WORDS_MAX])
    if (states := _STATE.findall(output)) != []:
        raise UnprocessableError(
            f"masking ended with SQLSTATE {states[0]}",
            public=f"what is derived from the masked tables cannot be made anew: SQLSTATE {states[0]}",
        )
    raise InternalError(f"masking ended with {code}")


def _is_printable(name: str) -> bool:
    return not any(unicodedata.category(it)[0] == "C" for it in name)
