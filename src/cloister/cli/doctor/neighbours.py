"""What tenants could learn of each other through the processor and through memory that looks the same."""

from pathlib import Path
from typing import Final

from cloister.base.identities import COMPUTE_UID_COUNT, COMPUTE_UID_FIRST
from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning
from cloister.node.sandbox.cores import Support, cookie, support

VULNERABILITIES: Final = Path("/sys/devices/system/cpu/vulnerabilities")
SAME_PAGES: Final = Path("/sys/kernel/mm/ksm/run")

Cookies = dict[int, dict[int, int | None]]
"""Of each uid, the cookies of its processes."""


def cores(_subject: Subject) -> list[Finding]:
    """Whether two tenants can be on the hyperthreads of one core at the same time: of what runs now, too."""
    can = support()
    return [decide_cores(can, _cookies() if can is Support.ON else {})]


def decide_cores(can: Support, cookies: Cookies) -> Finding:
    match can:
        case Support.NO_THREADS:
            return ok("cores", "this machine shows no hyperthreads: there is nothing to share")
        case Support.MISSING:
            return warning(
                "cores",
                "two tenants may share the hyperthreads of a core: the kernel has no core scheduling",
                "boot with nosmt, or a kernel of 5.14 or later with CONFIG_SCHED_CORE",
            )
        case Support.ON:
            pass
    open_ = sorted(pid for processes in cookies.values() for pid, found in processes.items() if not found)
    if open_:
        return fail("cores", f"processes {_some(open_)} of computes share a core with any", "restart these computes")
    of_uid = [{found for found in processes.values() if found} for processes in cookies.values()]
    if len(set().union(*of_uid)) < sum(map(len, of_uid)):
        return fail("cores", "computes of two projects have one cookie", "restart the computes, and report it")
    return ok("cores", f"core scheduling keeps tenants apart, {len(cookies)} of them now")


def processor(_subject: Subject) -> list[Finding]:
    return [decide_processor({path.name: path.read_text().strip() for path in VULNERABILITIES.glob("*")})]


def decide_processor(said: dict[str, str]) -> Finding:
    if not said:
        return warning("processor", "the kernel does not say which holes the processor has", "use a newer kernel")
    open_ = [f"{name} ({text})" for name, text in sorted(said.items()) if "vulnerable" in text.lower()]
    if open_:
        return warning(
            "processor",
            f"open to {'; '.join(open_)}",
            "a tenant may read others' memory: update kernel and microcode, and boot without mitigations=off;"
            " with nosmt where SMT is named",
        )
    return ok("processor", "the kernel knows no hole in it that is open")


def same_pages(_subject: Subject) -> list[Finding]:
    return [decide_same_pages(SAME_PAGES.read_text().strip() if SAME_PAGES.exists() else "0")]


def decide_same_pages(run: str) -> Finding:
    if run == "1":
        return warning(
            "same pages",
            "the kernel merges pages with the same content (KSM): how long a write takes tells what others have",
            "echo 2 > /sys/kernel/mm/ksm/run",
        )
    return ok("same pages", "not merged between processes")


def _cookies() -> Cookies:
    found: Cookies = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            uid = process.stat().st_uid
            if COMPUTE_UID_FIRST <= uid < COMPUTE_UID_FIRST + COMPUTE_UID_COUNT:
                found.setdefault(uid, {})[int(process.name)] = cookie(int(process.name))
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return found


def _some(pids: list[int]) -> str:
    return ", ".join(map(str, pids[:5])) + (", …" if len(pids) > 5 else "")
