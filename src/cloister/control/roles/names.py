"""Which names the platform keeps for itself."""

from cloister.base.errors import UnprocessableError
from cloister.base.ids import parse_identifier
from cloister.control.roles.model import RESERVED_DATABASES, RESERVED_ROLE_PREFIXES, RESERVED_ROLES

SUPERUSER = "cloister_admin"
TEMPLATE_ROLE = "neondb_owner"
TEMPLATE_DATABASE = "neondb"
GROUP_ROLE = "neon_superuser"
PLATFORM_DATABASES = frozenset({"postgres", "template0", "template1"})


def new_role_name(text: str) -> str:
    """A name somebody may give to a role through the API. Raises InvalidIdError, UnprocessableError."""
    name = parse_identifier("role name", text)
    if name in RESERVED_ROLES or name.startswith(RESERVED_ROLE_PREFIXES):
        raise UnprocessableError(f"reserved role name {name!r}", public="role name is reserved")
    return name


def new_database_name(text: str) -> str:
    name = parse_identifier("database name", text)
    if name in RESERVED_DATABASES:
        raise UnprocessableError(f"reserved database name {name!r}", public="database name is reserved")
    return name


def is_platform_role(name: str) -> bool:
    """A role that no client can ever log in as, whatever the catalog says about it."""
    return name == GROUP_ROLE or name.startswith(RESERVED_ROLE_PREFIXES)
