"""Whether the platform's processes are apart: what `app/flows.py` tried, in the words of a check."""

import grp

from cloister.base.identities import SHARED_GROUP
from cloister.cli.doctor.finding import Finding, Subject, fail, ok

_REMEDY_CLOSED = "restart the platform"
_REMEDY_OPEN = f"{_REMEDY_CLOSED}; if it stays, find out who made it, and report it"


def flows(subject: Subject) -> list[Finding]:
    """What each user was given, held against the table."""
    from cloister.app import flows as matrix  # noqa: PLC0415 - heavy

    expected = matrix.table()
    findings = [
        fail("flows", each.seen, _REMEDY_OPEN if each.is_open else _REMEDY_CLOSED)
        for each in matrix.try_all(subject.platform)
    ]
    return findings or [
        ok("flows", f"{len(expected)} sockets, files and directories, each tried as {len(matrix.USERS)} users")
    ]


def group(_subject: Subject) -> list[Finding]:
    """Who is in the group that reaches the computes' sockets: the API and the gateway, by their primary group, and nobody
    besides."""
    members = grp.getgrnam(SHARED_GROUP).gr_mem
    if members:
        return [fail("group", f"{', '.join(members)}: also in {SHARED_GROUP}", f"take them out of {SHARED_GROUP}")]
    return [ok("group", f"{SHARED_GROUP} has the API's and the gateway's users, and nobody besides")]
