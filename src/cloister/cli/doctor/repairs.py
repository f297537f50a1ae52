"""Whether repairs of known holes wait on this host, and for how long."""

import time

from cloister.app import repairs as known
from cloister.app.repairs import Repair
from cloister.app.watchman import told
from cloister.cli.doctor.finding import Finding, Subject, ok, warning


def repairs(subject: Subject) -> list[Finding]:
    if (said := known.policies()) is None:
        return [warning("repairs", "there is no apt here to ask", "follow your distribution's security advisories")]
    settings = subject.settings
    seen = {} if settings is None else told(settings.paths.watchman).repairs.waiting
    days = 0 if settings is None else settings.repair_days
    return [decide_repairs(known.waiting_in(said), seen, time.time(), days)]


def decide_repairs(waiting: dict[str, tuple[str, str]], seen: dict[str, Repair], now: float, days: int) -> Finding:
    """`seen`: since when the watchman saw what waits. What it has not seen yet is not overdue."""
    if not waiting:
        return ok("repairs", "none waits, as far as the package lists know")
    late = known.overdue({package: it for package, it in seen.items() if package in waiting}, now, days)
    if not late:
        return ok(
            "repairs", f"{len(waiting)} of the last days: apt-get install --only-upgrade {' '.join(sorted(waiting))}"
        )
    named = " ".join(sorted(late))
    return warning("repairs", f"overdue for {named}", f"apt-get install --only-upgrade {named}; then restart what runs")
