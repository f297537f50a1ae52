"""The Unix users of the platform: one per process kind, so that the kernel keeps them apart.

Only the node agent (and the supervisor that starts it) is root. Computes run under a numeric uid of their own, from a
range that no other allocator uses, with no name on the host.
"""

import contextlib
import os
import pwd
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from cloister.base.errors import BadRequestError, PreconditionError


class Service(StrEnum):
    """A process kind; the value is also its Unix user, except for the agent, which is root."""

    AGENT = "root"
    API = "cloister-api"
    GATEWAY = "cloister-gateway"
    KEYS = "cloister-keys"
    DATABASE = "cloister-db"
    EGRESS = "cloister-egress"
    COURIER = "cloister-courier"
    SENTINEL = "cloister-sentinel"


COMPUTE_UID_FIRST: Final = 1_900_000_000
COMPUTE_UID_COUNT: Final = 100_000_000
# Above what systemd-nspawn (to 1 879 048 191) and subuid ranges use, below 2^31, where some tools turn negative.


POOLER_UID: Final = COMPUTE_UID_FIRST + COMPUTE_UID_COUNT - 3
"""Of the PgBouncers that stand beside computes. Each is in a sandbox of its own, and owns nothing but its socket."""

READER_UID: Final = COMPUTE_UID_FIRST + COMPUTE_UID_COUNT - 2
"""Of programs that read a tenant's server from outside of it (pg_dump). It owns nothing; the last uids of the range are
never a project's."""


def uid_of(service: Service) -> int:
    """Raises PreconditionError if the user does not exist: `cloister up` creates them."""
    if service is Service.AGENT:
        return 0
    try:
        return pwd.getpwnam(service.value).pw_uid
    except KeyError:
        raise PreconditionError(public=f"no Unix user {service.value}: run `cloister up` as root once") from None


def gid_of(service: Service) -> int:
    return 0 if service is Service.AGENT else pwd.getpwnam(service.value).pw_gid


@contextlib.contextmanager
def acting_as(service: Service) -> Iterator[None]:
    """Root's command as that user, for a while: files of its are read and made as it does. The whole process is."""
    user, group = os.geteuid(), os.getegid()
    os.setegid(gid_of(service))
    os.seteuid(uid_of(service))
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


def service_of_uid(uid: int) -> Service | None:
    """Which of our processes has this uid; None for anybody else."""
    for service in Service:
        try:
            if uid_of(service) == uid:
                return service
        except PreconditionError:
            continue
    return None


def checked_compute_uid(uid: int) -> int:
    """Raises BadRequestError for one outside the computes' range."""
    if not COMPUTE_UID_FIRST <= uid < COMPUTE_UID_FIRST + COMPUTE_UID_COUNT:
        raise BadRequestError(f"uid {uid} is not a compute's")
    return uid


def am_root() -> bool:
    return os.geteuid() == 0


SHARED_GROUP: Final = "cloister"
"""The primary group of the API's and the gateway's users: lets both, and nobody else, reach the computes' sockets."""
