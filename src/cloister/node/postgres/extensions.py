"""Which extensions a tenant may create, though it is no superuser: the one list.

PostgreSQL lets any role with CREATE on the database install an extension that its control file calls trusted: the script
then runs as the bootstrap superuser, and what it makes has the rights that its author gave out. The files on the host are
left as they are; a compute sees control files in which those of `TRUSTED_HERE` are trusted as well. The guard is told the
whole list (`guard.extensions`) and refuses every other one, whatever a control file of the installation says.
"""

import re
from pathlib import Path
from typing import Final

TRUSTED_HERE: Final = frozenset(
    {
        # Types, operators and access methods: they compute, and reach nothing.
        "vector",
        "bloom",
        "earthdistance",
        "dict_xsyn",
        "intagg",
        # Trigger functions on the tenant's own tables.
        "autoinc",
        "insert_username",
        "moddatetime",
        "refint",
        # Views of the tenant's own server; what would show more is granted to pg_monitor's members by their scripts.
        "amcheck",
        "pg_buffercache",
        "pg_freespacemap",
        "pg_prewarm",
        "pg_visibility",
        "pgrowlocks",
        "pgstattuple",
        # They connect to what the compute can see: this server's own socket, which lets its own user in as nobody
        # (`access.py`), and the doors that the project was given (`node/egress`). A role that is no superuser must give a
        # password, and the other end must have asked for it.
        "dblink",
        "postgres_fdw",
    }
)
TRUSTED_BY_POSTGRESQL: Final = frozenset(
    (
        "btree_gin btree_gist citext cube dict_int fuzzystrmatch hstore intarray isn lo ltree pg_trgm pgcrypto plpgsql seg "
        "tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp"
    ).split()
)
OFFERED: Final = TRUSTED_HERE | TRUSTED_BY_POSTGRESQL
# Not here, on purpose: pageinspect, pg_surgery, pg_walinspect and pg_logicalinspect (a superuser's tools on
# storage, past every right on rows). pg_stat_statements is for the day when computes preload it.

_GRANTS: Final = {
    # A trusted extension's objects are the superuser's, and nobody else may use a foreign data wrapper. The others are
    # functions, which everybody may call.
    "postgres_fdw--1.0.sql": "GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO neon_superuser;",
}
"""First script of an extension → what a compute sees at its end besides."""

_TRUSTED_LINE: Final = re.compile(r"^\s*trusted\s*=.*$", re.MULTILINE)


def trusted_controls(extension_dir: Path) -> dict[str, str]:
    """File name → text, of the control files that a compute sees instead of the installation's."""
    return {
        control.name: _TRUSTED_LINE.sub("", control.read_text()).rstrip("\n") + "\ntrusted = true\n"
        for control in sorted(extension_dir.glob("*.control"))
        if control.stem in TRUSTED_HERE
    }


def granting_scripts(extension_dir: Path) -> dict[str, str]:
    """File name → text, of the scripts that a compute sees instead of the installation's."""
    return {
        name: f"{(extension_dir / name).read_text()}\n{statement}\n"
        for name, statement in _GRANTS.items()
        if (extension_dir / name).is_file()
    }
