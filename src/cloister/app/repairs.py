"""Known holes in what the platform stands on: packages of the host for which the distribution's security archive has a newer version
than is installed. Once a day, from the package lists that the host's own `apt-get update` fetched; nothing is asked of a network.

A repair that waits longer than `repair_days` of the settings, from the first look that saw it, is overdue. The lists say of no repair how grave
its hole is: there is one deadline for all. What is not looked at: the packages of Python and the engine among them, which
come with a version of Cloister; a kernel that is installed and not booted yet; a host without apt.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import msgspec

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
LOOK_EVERY_S: Final = DAY_S
# It takes a second of CPU, and lists are fetched once a day.

APT_CACHE: Final = "/usr/bin/apt-cache"
PATIENCE_S: Final = 60.0

PACKAGES: Final = (
    # What is started.
    "bubblewrap", "cryptsetup-bin", "mount", "pgbouncer", "qemu-system-common", "xfsprogs",
    f"python{sys.version_info.major}.{sys.version_info.minor}",
    # What these and the engine are linked with, and what everything runs on. By the names of Debian and of Ubuntu.
    "libc6", "libcryptsetup12", "libseccomp2", "libssl3", "libssl3t64", "zlib1g",
    "linux-image-amd64", "linux-image-arm64", "linux-image-cloud-amd64", "linux-image-cloud-arm64", "linux-image-generic",
    "linux-image-virtual",
)  # fmt: skip

_VERSION: Final = re.compile(r" (\*\*\*|   ) (\S+) -?\d+")
_ARCHIVE: Final = re.compile(r" {8,}-?\d+ \S+ \S+-security/")


class Repair(msgspec.Struct, frozen=True):
    installed: str
    repaired: str
    """The newest version of the security archive."""
    since: float
    """When it was first seen to wait, for whatever version: a newer repair gives no new time."""
    is_told: bool = False


class Looked(msgspec.Struct, frozen=True):
    """What the last look found, by package."""

    at: float = 0.0
    waiting: dict[str, Repair] = {}


def look(before: Looked, now: float) -> Looked:
    """Once a day. Where it cannot be looked, what was known stays known: nothing is over by not being seen."""
    if 0 <= now - before.at < LOOK_EVERY_S:
        return before
    if (said := policies()) is None:
        return Looked(now, before.waiting)
    waiting = {}
    for package, (installed, repaired) in waiting_in(said).items():
        old = before.waiting.get(package)
        waiting[package] = Repair(
            installed, repaired, since=now if old is None else old.since, is_told=old is not None and old.is_told
        )
    return Looked(now, waiting)


def overdue(waiting: Mapping[str, Repair], now: float, days: float) -> dict[str, Repair]:
    return {package: it for package, it in waiting.items() if now - it.since > days * DAY_S}


def policies() -> str | None:
    """What apt knows of each package. None where it cannot be asked."""
    try:
        said = subprocess.run(
            [APT_CACHE, "policy", *PACKAGES],
            capture_output=True, text=True, timeout=PATIENCE_S, check=True, env={"LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("the package lists cannot be read: %s", error)
        return None
    return said.stdout


def waiting_in(said: str) -> dict[str, tuple[str, str]]:
    """Package → the installed version, and a newer one of a security archive. A table of versions begins with the newest, and
    has a mark at the installed one; a package that is not installed has none."""
    found = {}
    package = version = repaired = ""
    for line in said.splitlines():
        if not line.startswith(" "):
            package, version, repaired = line.removesuffix(":"), "", ""
        elif (match := _VERSION.fullmatch(line)) is not None:
            version = match[2]
            if match[1] == "***":
                if repaired:
                    found[package] = (version, repaired)
                package = ""  # what follows is older
        elif package and version and not repaired and _ARCHIVE.match(line):
            repaired = version
    return found
