"""Whether what projects hold would survive this machine: whether there is a store for backups that keeps its word."""

import asyncio
from typing import TYPE_CHECKING, Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

if TYPE_CHECKING:
    from cloister.node.backups.commands import StoreFacts

ABOUT: Final = "store for backups"

_PATIENCE_S: Final = 2.0
# For the courier, which is started within a second of there being a store.


def store(subject: Subject) -> list[Finding]:
    from cloister.base.rpc import Client  # noqa: PLC0415 - heavy
    from cloister.node.backups.commands import LookAtStore  # noqa: PLC0415

    paths = subject.platform.paths
    if not paths.store_file.exists():
        return [
            warning(
                ABOUT,
                "there is none: what projects hold is lost with this machine",
                "a bucket elsewhere: cloister backups store --help",
            )
        ]

    async def look() -> "StoreFacts":
        client = Client(paths.courier_socket, connect_patience_s=_PATIENCE_S)
        try:
            return await client.call(LookAtStore())
        finally:
            await client.close()

    return decide(asyncio.run(look()))


def decide(seen: "StoreFacts") -> list[Finding]:
    place = f"{seen.name} at {seen.place}"
    if seen.problem:
        return [fail(ABOUT, f"{place}: {seen.problem}", "cloister backups store test")]
    found = [
        warning(ABOUT, f"{place}: {each}", "the policies of `cloister backups store --help`") for each in seen.too_much
    ]
    if seen.kept_days is None:
        found.append(
            warning(
                ABOUT,
                f"{place}: nothing is known to remove what is old",
                "the lifecycle rule of `cloister backups store --help`",
            )
        )
    return found or [
        ok(ABOUT, f"{place} keeps every version and locks it; what is old goes after {seen.kept_days} days")
    ]
