"""Who may log in to a compute, and as whom: pg_hba.conf, pg_ident.conf and the accounts that they name.

A compute has one socket and four callers. The kernel says which uid is calling, and that is all the authentication
there is inside: the gateway has checked the client's password before it connects.

(1) `cloister_admin`, the bootstrap superuser, is for the API's process alone.
(2) The gateway may log in as everybody else. It can never become a superuser, whatever a client asks it for.
(3) `cloister_reader`, who may read and change nothing, is for pg_dump in a sandbox of its own (`node/dumps.py`). pg_dump
    reads what a tenant's server says, so it may be led to anything: neither the gateway nor the API can become that role,
    and the uid that can become it can become no other.
(4) The compute's pooler (`node/poolers.py`) may become whom the gateway may become, and nobody else: it speaks for clients
    that the gateway has let in.
(5) Nobody else gets in. The compute's own uid is in no map: code that runs inside as PostgreSQL cannot come back through
    the socket as the superuser.

A physical replication connection matches no line, so it is refused: `all` does not include it. That is no wall around a
tenant's own data: on a connection for logical replication (`replication=database`), which `all` includes, PostgreSQL takes
the physical commands too, BASE_BACKUP among them, from any role with REPLICATION. What they give is the data directory of
the tenant's own server, which holds nothing of ours: no configuration, no key, no password of `cloister_admin`.
"""

import grp
from dataclasses import dataclass
from typing import Final

from cloister.base.identities import POOLER_UID, READER_UID, SHARED_GROUP, Service, uid_of

ADMIN_ROLE: Final = "cloister_admin"
READER_ROLE: Final = "cloister_reader"
_READER_USER: Final = "cloister-reader"
_POOLER_USER: Final = "cloister-pooler"

PG_HBA: Final = f"""\
# TYPE  DATABASE  USER            METHOD
local   all       {ADMIN_ROLE}  peer map=platform
local   all       {READER_ROLE}  peer map=reader
local   all       all             peer map=gateway
"""

PG_IDENT: Final = f"""\
# MAP     SYSTEM USER       DATABASE USER
platform  {Service.API}      {ADMIN_ROLE}
reader    {_READER_USER}      {READER_ROLE}
gateway   {Service.GATEWAY}  all
gateway   {_POOLER_USER}      all
"""


@dataclass(frozen=True, slots=True)
class Doors:
    """The uids that may knock, and the group that lets them reach the socket."""

    api_uid: int
    gateway_uid: int
    shared_gid: int

    @classmethod
    def of_host(cls) -> "Doors":
        """Raises PreconditionError when the users do not exist."""
        return cls(uid_of(Service.API), uid_of(Service.GATEWAY), grp.getgrnam(SHARED_GROUP).gr_gid)

    def passwd(self) -> str:
        """/etc/passwd inside: PostgreSQL looks up the caller's name in it, so a uid that is not here is nobody."""
        nowhere = "/:/nonexistent"
        return (
            f"{Service.API}:x:{self.api_uid}:{self.shared_gid}::{nowhere}\n"
            f"{Service.GATEWAY}:x:{self.gateway_uid}:{self.shared_gid}::{nowhere}\n"
            f"{_READER_USER}:x:{READER_UID}:{READER_UID}::{nowhere}\n"
            f"{_POOLER_USER}:x:{POOLER_UID}:{POOLER_UID}::{nowhere}\n"
        )

    def group(self) -> str:
        return f"{SHARED_GROUP}:x:{self.shared_gid}:\n"


NSSWITCH: Final = "passwd: files\ngroup: files\n"
