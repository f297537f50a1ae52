"""What is said to two clusters so that one of them gets the other's roles, databases and schemas, and none of its rows. Pure.

The source, a copy that is thrown away afterwards, tells in single-user mode how its roles and databases are made anew: whole
statements, in hexadecimal, so that no name can look like something else. It is believed as much as any copy of it would be,
whose catalogs become the child's. Then its databases get names of ours (`name_of`), so that no tenant's name is ever a word
of a command.

What is *in* the databases goes through pg_dump and pg_restore (`node/schemas.py`). A restore executes what a tenant wrote, so
no superuser does it: RESTORER_ROLE is a member of every role of the tenant and has no right besides, and the guard watches it.
Only a superuser may give an object to a role that may not create in the object's schema, though, and pg_dump grants that
later. Therefore every role is in SCHEMAS_ROLE meanwhile, which may create in every schema. Both are dropped at the end, and
PostgreSQL refuses that while anything of theirs is left.
"""

# ruff: noqa: S608 - what is put together here are literals of this file, and numbers

import re
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import InternalError, UnprocessableError
from cloister.node.postgres.access import ADMIN_ROLE, READER_ROLE
from cloister.node.postgres.template import DATABASE, GROUP_ROLE, OWNER_ROLE

RESTORER_ROLE: Final = "cloister_restorer"
SCHEMAS_ROLE: Final = "cloister_schemas"
# The guard keeps every name with this prefix from tenants, so neither is taken.

DATABASES_MAX: Final = 500
# Each takes a second: a dump, a restore, a run in single-user mode.

OUTPUT_BYTES_MAX: Final = 16 * 1024**2
# A role takes about a kilobyte, as hexadecimal.

_LINE: Final = re.compile(r'\b(first|last|in_(\d{1,10})) = "((?:[0-9a-f]{2})+)"')
_COUNT: Final = re.compile(r'\bstatements = "(\d+)"')

_PLATFORM_DATABASES: Final = "('postgres', 'template0', 'template1')"
_DATABASES: Final = f"(SELECT * FROM pg_database WHERE datname NOT IN {_PLATFORM_DATABASES} AND datconnlimit <> -2)"
_IS_TENANT: Final = (
    r"NOT starts_with({0}.rolname, 'pg_') AND NOT starts_with({0}.rolname, 'cloister_') AND {0}.rolname <> '"
    + (GROUP_ROLE + "'")
)
_NOT_HANDED_ON: Final = "('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')"


@dataclass(frozen=True, slots=True)
class Told:
    """What the source said."""

    first: list[str]
    """Statements for a fresh cluster: roles, memberships, databases under names of ours."""
    inside: dict[int, list[str]]
    """By the oid of a database: what is to be said in it when its schema is there."""
    last: list[str]
    """Settings, rights on databases, and their names."""


def name_of(oid: int) -> str:
    """A database, in both clusters, while they are being worked on."""
    return f"cloister_{oid}"


def questions(major: int, *, keeps_passwords: bool) -> bytes:
    """For the source: everything in `Told`, and their number."""
    kinds = [("first", text) for text in _first(major)]
    if keeps_passwords:
        kinds += [("first", text) for text in _PASSWORDS]
    kinds += [("last", text) for text in _LAST]
    asked = [f"SELECT {_hex('t.statement')} AS {kind} FROM ({text}) t" for kind, text in kinds]
    counted = " + ".join(f"(SELECT count(*) FROM ({text}) t)" for _kind, text in kinds)
    return _lines(*asked, f"SELECT {counted} AS statements", f"SELECT oid AS database FROM {_DATABASES} d")


def questions_inside(oids: list[int]) -> bytes:
    """For the source as well: who gets what belongs to the restorer in each database."""
    return _lines(*(f"SELECT {_hex(_REASSIGN)} AS in_{oid} FROM pg_database d WHERE d.oid = {oid}" for oid in oids))


_REASSIGN: Final = f"format('REASSIGN OWNED BY {RESTORER_ROLE} TO %I', pg_get_userbyid(d.datdba))"


def preparations() -> bytes:
    """For the source, when it has told everything: anybody may look at its databases, under their new names, and nothing that
    was set for them gets in the way."""
    return _lines(
        "DELETE FROM pg_db_role_setting",
        f"UPDATE pg_database SET datname = 'cloister_' || oid, datacl = NULL, datallowconn = true, datconnlimit = -1 "
        f"WHERE oid IN (SELECT oid FROM {_DATABASES} d)",
    )


def foundation(told: Told) -> bytes:
    """For the target, a copy of the template."""
    return _lines(
        f"DROP DATABASE {DATABASE}",
        f"DROP ROLE {OWNER_ROLE}",
        f"CREATE ROLE {SCHEMAS_ROLE} NOLOGIN",
        f"CREATE ROLE {RESTORER_ROLE} LOGIN",
        f"GRANT {GROUP_ROLE} TO {RESTORER_ROLE} WITH INHERIT TRUE, SET TRUE",
        f"GRANT {SCHEMAS_ROLE} TO {GROUP_ROLE} WITH INHERIT TRUE",
        *told.first,
    )


SCHEMAS_OPEN: Final = (
    f"ALTER DEFAULT PRIVILEGES GRANT USAGE, CREATE ON SCHEMAS TO {SCHEMAS_ROLE}; "
    f"GRANT USAGE, CREATE ON SCHEMA public TO {SCHEMAS_ROLE}"
)
"""Said by the restorer, in each database, before anything is restored there."""


def completion(statements: list[str]) -> bytes:
    """For the target, in a database whose schema is there."""
    return _lines(*statements, f"DROP OWNED BY {SCHEMAS_ROLE}", f"DROP OWNED BY {RESTORER_ROLE}")


def conclusion(told: Told) -> bytes:
    """For the target, at the end."""
    return _lines(*told.last, f"DROP ROLE {RESTORER_ROLE}", f"DROP ROLE {SCHEMAS_ROLE}", "CHECKPOINT")


def told(output: str) -> Told:
    """Raises UnprocessableError for more than can be done, or than can be said in one line."""
    said = Told([], {}, [])
    for kind, oid, text in _LINE.findall(output):
        statement = bytes.fromhex(text).decode(errors="strict")
        if "\n" in statement or "\0" in statement:
            raise UnprocessableError(
                f"{statement[:80]!r}", public="a role, a database or a setting of one has a line break in it"
            )
        if oid:
            said.inside.setdefault(int(oid), []).append(statement)
        else:
            (said.first if kind == "first" else said.last).append(statement)
    found = _COUNT.search(output)
    if found is None or int(found[1]) != len(said.first) + len(said.last):
        raise UnprocessableError(f"{found and found[1]} statements", public="the branch has too many roles to copy")
    return said


def databases(output: str) -> list[int]:
    """Their oids. Raises UnprocessableError, InternalError."""
    oids = [int(found) for found in re.findall(r'\bdatabase = "(\d{1,10})"', output)]
    if len(oids) > DATABASES_MAX:
        raise UnprocessableError(
            f"{len(oids)} databases", public=f"a schema-only branch has at most {DATABASES_MAX} databases"
        )
    if len(set(oids)) != len(oids):
        raise InternalError("a database was told twice")
    return oids


def _first(major: int) -> list[str]:
    locale = "datlocale" if major >= 17 else "daticulocale"
    role, member = _IS_TENANT.format("r"), _IS_TENANT.format("m")
    return [
        # Nobody is a superuser, whatever the source's catalog says.
        f"""SELECT format('CREATE ROLE %I NOSUPERUSER %s %s %s %s %s %s CONNECTION LIMIT %s%s', rolname,
            CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
            CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
            CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
            CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
            CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
            CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
            rolconnlimit, ' VALID UNTIL ' || quote_literal(rolvaliduntil)) AS statement
            FROM pg_authid r WHERE {role} ORDER BY oid""",
        f"""SELECT format('GRANT %I TO {RESTORER_ROLE} WITH INHERIT TRUE, SET TRUE', rolname) AS statement
            FROM pg_authid r WHERE {role}""",
        f"""SELECT format('GRANT {SCHEMAS_ROLE} TO %I WITH INHERIT TRUE', rolname) AS statement
            FROM pg_authid r WHERE {role}""",
        # Who granted what is not kept: all of it is the platform's, as what comes with CREATE ROLE is.
        f"""SELECT format('GRANT %I TO %I WITH ADMIN %s, INHERIT %s, SET %s', r.rolname, m.rolname,
            bool_or(a.admin_option)::text, bool_or(a.inherit_option)::text, bool_or(a.set_option)::text) AS statement
            FROM pg_auth_members a JOIN pg_authid r ON r.oid = a.roleid JOIN pg_authid m ON m.oid = a.member
            WHERE {member} AND r.rolname NOT IN {_NOT_HANDED_ON} AND NOT starts_with(r.rolname, 'cloister_')
            GROUP BY r.rolname, m.rolname""",
        f"""SELECT format('CREATE DATABASE cloister_%s OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L
            LOCALE_PROVIDER %s %s STRATEGY file_copy', d.oid, pg_get_userbyid(datdba), pg_encoding_to_char(encoding),
            datcollate, datctype, CASE datlocprovider WHEN 'b' THEN 'builtin' WHEN 'i' THEN 'icu' ELSE 'libc' END,
            CASE datlocprovider WHEN 'b' THEN 'BUILTIN_LOCALE ' WHEN 'i' THEN 'ICU_LOCALE ' END
            || quote_literal({locale})) AS statement FROM {_DATABASES} d""",
    ]


# The verifiers, and what the ledger says of them.
_PASSWORDS: Final = (
    f"""SELECT format('UPDATE pg_authid SET rolpassword = %L WHERE rolname = %L', rolpassword, rolname) AS statement
        FROM pg_authid r WHERE rolpassword IS NOT NULL AND {_IS_TENANT.format("r")}""",
    f"""SELECT format('INSERT INTO pg_shseclabel (objoid, classoid, provider, label) SELECT oid, 1260, %L, %L FROM pg_authid
        WHERE rolname = %L', l.provider, l.label, r.rolname) AS statement
        FROM pg_shseclabel l JOIN pg_authid r ON r.oid = l.objoid AND l.classoid = 1260 WHERE {_IS_TENANT.format("r")}""",
)

_LAST: Final = (
    f"""SELECT format('REVOKE ALL ON DATABASE cloister_%s FROM PUBLIC, %I', d.oid, pg_get_userbyid(datdba)) AS statement
        FROM {_DATABASES} d WHERE datacl IS NOT NULL""",
    f"""SELECT format('GRANT %s ON DATABASE cloister_%s TO %s%s', a.privilege_type, d.oid,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END) AS statement
        FROM {_DATABASES} d, aclexplode(datacl) a""",
    f"""SELECT format('INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig) VALUES (coalesce((SELECT oid
        FROM pg_database WHERE datname = %L), 0), coalesce((SELECT oid FROM pg_authid WHERE rolname = %L), 0), %L)',
        'cloister_' || d.oid, r.rolname, s.setconfig) AS statement
        FROM pg_db_role_setting s LEFT JOIN {_DATABASES} d ON d.oid = s.setdatabase
        LEFT JOIN pg_authid r ON r.oid = s.setrole
        WHERE (s.setdatabase = 0 OR d.oid IS NOT NULL) AND (s.setrole = 0 OR ({_IS_TENANT.format("r")}))""",
    f"""SELECT format('ALTER DATABASE cloister_%s CONNECTION LIMIT %s IS_TEMPLATE %s ALLOW_CONNECTIONS %s', d.oid, datconnlimit,
        datistemplate::text, datallowconn::text) AS statement FROM {_DATABASES} d""",
    f"SELECT format('ALTER DATABASE cloister_%s RENAME TO %I', d.oid, datname) AS statement FROM {_DATABASES} d",
)

CLIENTS: Final = f"local all {READER_ROLE},{RESTORER_ROLE} trust\n"
"""pg_hba.conf of both servers. Nobody is in there with them but the programs that are run, and ADMIN_ROLE is not let in."""
assert ADMIN_ROLE not in CLIENTS


def _hex(expression: str) -> str:
    return f"encode(convert_to({expression}, 'UTF8'), 'hex')"


def _lines(*statements: str) -> bytes:
    """One a line, which is how single-user mode takes them."""
    return "".join(f"{' '.join(statement.split(chr(10)))};\n" for statement in statements).encode()
