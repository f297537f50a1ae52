"""What a program of PostgreSQL's is told so that it tells a database's schema: as SQL, or as its tables.

SQL is pg_dump's. The tables are one query of psql's, an object of JSON a line, in Neon's words for them: which columns, and which
keys. What belongs to an extension is left out, as pg_dump leaves it out.

The query runs in a database where a tenant may have made functions, operators and settings of the same names. So the session has
an empty search path and a word for each setting that changes what is said, which no setting of a role or a database
overrides, and whatever is not a syntax of PostgreSQL's own comes from pg_catalog, which is searched before everything else.
"""

from typing import Final, NamedTuple

from cloister.node.commands import SchemaForm

_TABLES: Final = """
SELECT json_build_object(
    'schema', space.nspname,
    'name', it.relname,
    'columns', (
        SELECT coalesce(json_agg(json_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, a.atttypmod),
            'nullable', NOT (a.attnotnull OR (t.typtype = 'd' AND t.typnotnull)),
            'generated', a.attgenerated <> ''
        ) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = it.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    'constraints', (
        SELECT coalesce(json_agg(json_build_object(
            'type', CASE c.contype WHEN 'p' THEN 'primary_key' WHEN 'u' THEN 'unique' ELSE 'foreign_key' END,
            'columns', (
                SELECT json_agg(a.attname ORDER BY k.place)
                FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
            ),
            'name', c.conname,
            'referenced_table', CASE WHEN c.contype = 'f' THEN (
                SELECT json_build_object(
                    'schema', other_space.nspname,
                    'table', other.relname,
                    'columns', (
                        SELECT json_agg(a.attname ORDER BY k.place)
                        FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, place)
                        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
                    )
                )
                FROM pg_catalog.pg_class other JOIN pg_catalog.pg_namespace other_space ON other_space.oid = other.relnamespace
                WHERE other.oid = c.confrelid
            ) END
        ) ORDER BY strpos('puf', c.contype::text), c.conname), '[]')
        FROM pg_catalog.pg_constraint c
        WHERE c.conrelid = it.oid AND c.contype IN ('p', 'u', 'f')
            -- A key to a partitioned table has another row for each of its partitions.
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_constraint whole WHERE whole.oid = c.conparentid AND whole.conrelid = c.conrelid
            )
    )
)
FROM pg_catalog.pg_class it JOIN pg_catalog.pg_namespace space ON space.oid = it.relnamespace
WHERE it.relkind IN ('r', 'p', 'f') AND it.relpersistence <> 't'
    AND space.nspname <> 'information_schema' AND space.nspname !~ '^pg_'
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = it.oid AND d.objsubid = 0 AND d.deptype = 'e'
    )
ORDER BY space.nspname, it.relname
"""


class Told(NamedTuple):
    """A program in the directory of PostgreSQL's, its words, and what it finds in its environment."""

    program: str
    words: tuple[str, ...]
    environment: dict[str, str]


TOLD: Final[dict[SchemaForm, Told]] = {
    "sql": Told("pg_dump", ("--schema-only", "--no-password", "--encoding=UTF8"), {}),
    "tables": Told(
        "psql",
        (
            *("--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"),
            *("--set=ON_ERROR_STOP=1", f"--command={_TABLES}"),
        ),
        {
            "PGCLIENTENCODING": "UTF8",
            "PGOPTIONS": "-c search_path= -c quote_all_identifiers=off -c statement_timeout=0 -c jit=off",
        },
    ),
}
