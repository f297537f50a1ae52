"""All checks, in the order in which they are shown, and what happens to one that cannot be made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import CloisterError
from cloister.cli.doctor import (
    backups,
    certificates,
    files,
    flows,
    host,
    keys,
    listeners,
    neighbours,
    processes,
    programs,
    records,
    repairs,
    volumes,
)
from cloister.cli.doctor.finding import Finding, Level, Subject, fail

Check = Callable[[Subject], list[Finding]]


@dataclass(frozen=True, slots=True)
class Group:
    """Checks about one thing. Those of a platform are left out where there is none yet."""

    title: str
    checks: tuple[Check, ...]
    needs_platform: bool


FLOWS: Final = Group("Flows", (flows.flows, flows.group), needs_platform=True)

GROUPS: Final = (
    Group(
        "Host",
        (
            host.root,
            host.opener,
            host.file_system,
            host.sandbox,
            host.cgroups,
            host.swap,
            host.core_dumps,
            host.disk,
            host.entropy,
            neighbours.cores,
            neighbours.processor,
            neighbours.same_pages,
        ),
        needs_platform=False,
    ),
    Group(
        "Programs",
        (programs.python, programs.engine, programs.installed, programs.pooler, programs.client, repairs.repairs),
        needs_platform=False,
    ),
    Group("Files", (files.users, files.directories, files.secrets), needs_platform=True),
    Group("Encryption", (volumes.volumes, volumes.encryption, keys.root_key, keys.keystore), needs_platform=True),
    Group("Processes", (processes.running,), needs_platform=True),
    FLOWS,
    Group(
        "Network",
        (listeners.open_ports, listeners.plaintext, certificates.certificates, certificates.names),
        needs_platform=True,
    ),
    Group("Backups", (backups.store, backups.control_database), needs_platform=True),
    Group("Records", (records.control_database, records.audit_log, records.api_answers), needs_platform=True),
)


def examine(subject: Subject, groups: tuple[Group, ...] = GROUPS) -> Iterator[tuple[str, Finding]]:
    """Every finding with the title of its group, as soon as it is known."""
    for group in groups:
        if group.needs_platform and subject.settings is None:
            continue
        for check in group.checks:
            for finding in run(check, subject):
                yield group.title, finding


def run(check: Check, subject: Subject) -> list[Finding]:
    """The findings of a check. One that raises, or finds nothing to say, is a failure: not looked at is not ok."""
    about = check.__name__.replace("_", " ")
    advice = "a check that cannot be made counts as failed: repair what it needs"
    try:
        found = check(subject)
    except CloisterError as error:
        return [fail(about, f"could not be checked: {error.public}", advice)]
    except Exception as error:
        return [fail(about, f"could not be checked: {type(error).__name__}: {error}", advice)]
    return found or [fail(about, "the check said nothing", advice)]


def is_healthy(findings: list[Finding], *, strict: bool) -> bool:
    bad = {Level.FAIL, Level.WARNING} if strict else {Level.FAIL}
    return not any(finding.level in bad for finding in findings)
