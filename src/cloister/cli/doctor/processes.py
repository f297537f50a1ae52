"""That all processes are up, under the right users, with no way to gain privileges."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.base.identities import Service, uid_of
from cloister.cli.doctor.finding import Finding, Subject, fail, ok

UP = "start it with `cloister up`, or look at what its log says"


@dataclass(frozen=True, slots=True)
class Running:
    uid: int
    no_new_privileges: bool


def running(subject: Subject) -> list[Finding]:
    from cloister.app import children, operator  # noqa: PLC0415 - heavy

    settings = subject.platform
    if not operator.is_running(settings.paths):
        return [fail("processes", "the platform is not running", UP)]
    seen = json.loads(settings.paths.status.read_text())["processes"]
    findings: list[Finding] = []
    for child in filter(lambda child: child.is_wanted, children.children(settings)):
        findings += decide(child.label, child.service, uid_of(child.service), seen.get(child.label), look)
    return findings or [ok("processes", f"{', '.join(seen)}: ready, each under its own user")]


def decide(label: str, service: Service, uid: int, seen: dict[str, Any] | None, look_at: Any) -> list[Finding]:
    if not seen or not seen.get("pid") or not seen.get("is_ready"):
        return [fail(label, "not ready", UP)]
    process = look_at(seen["pid"])
    if process is None:
        return [fail(label, f"process {seen['pid']} is gone", UP)]
    problems = []
    if process.uid != uid:
        problems.append(fail(label, f"runs as uid {process.uid}, not as {service.value}", "restart the platform"))
    if service is not Service.AGENT and not process.no_new_privileges:
        problems.append(fail(label, "could gain privileges by running a set-uid program", "restart the platform"))
    return problems


def look(pid: int) -> Running | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return None
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return Running(uid=int(fields["Uid"].split()[1]), no_new_privileges=fields.get("NoNewPrivs", "0").strip() == "1")
