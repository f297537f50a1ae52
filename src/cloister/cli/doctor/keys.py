"""Whether the root key would survive this machine."""

import time
from typing import TYPE_CHECKING, Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

if TYPE_CHECKING:
    from cloister.trust.keys import shares

DRILL_EVERY_S: Final = 92 * 86_400
# A quarter.


def root_key(subject: Subject) -> list[Finding]:
    from cloister.trust.keys import shares  # noqa: PLC0415 - heavy
    from cloister.trust.keys.providers.configuration import file_of_root  # noqa: PLC0415
    from cloister.trust.keys.providers.provider import fingerprint  # noqa: PLC0415

    paths = subject.platform.paths
    path = file_of_root(paths.key_providers, paths.root_key)
    if path is None:
        return [ok("root key", "not in a file here")]
    if not path.exists():
        return [fail("root key", f"{path} is gone", "put its backup back, or: cloister keys shares restore")]
    return [decide(fingerprint(path.read_bytes()), shares.noted(paths.key_shares), time.time())]


def decide(current: str, made: "shares.Made | None", now: float) -> Finding:
    if made is None:
        return ok("root key", "in one file: back it up, or `cloister keys shares make` puts it into several hands")
    if made.root_version != current:
        return warning(
            "root key",
            f"{current}, and the shares are of {made.root_version}",
            "make new ones: cloister keys shares make",
        )
    days = int((now - made.tried_at) / 86_400)
    if now - made.tried_at > DRILL_EVERY_S:
        return warning("root key", f"its shares were last tried {days} days ago", "cloister keys shares try")
    return ok("root key", f"in {made.people} hands, {made.enough} are enough; tried {days} days ago")
