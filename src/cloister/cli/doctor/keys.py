"""Whether the root key, and the keystore that goes with it, would survive this machine."""

import time
from typing import TYPE_CHECKING, Final

import msgspec

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

if TYPE_CHECKING:
    from cloister.trust.keys import backup, shares

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


def keystore(subject: Subject) -> list[Finding]:
    """Whether the keystore would, without which no root key opens anything."""
    from cloister.trust.keys import backup  # noqa: PLC0415 - heavy
    from cloister.trust.keys.keystore import SEALS_FILE  # noqa: PLC0415

    paths = subject.platform.paths
    path = paths.keystore / SEALS_FILE
    if not path.exists():
        return [fail("keystore", f"{path} is gone", "cloister keys restore BACKUP, or put the newest copy back")]
    return [decide_keystore(path.read_bytes(), backup.marked(paths.key_backup), time.time())]


def decide_keystore(content: bytes, made: "backup.Marked | None", now: float) -> Finding:
    from cloister.trust.keys.backup import digest  # noqa: PLC0415 - heavy
    from cloister.trust.keys.keystore import Seals  # noqa: PLC0415

    about, again = "keystore", "cloister keys backup --to a place on another disk"
    seals = msgspec.json.decode(content, type=Seals)
    if made is None:
        return warning(about, "it was never copied: with its disk every project is lost", again)
    if made.epoch != seals.epoch:
        return warning(
            about,
            f"its backup is of epoch {made.epoch}, and this is {seals.epoch}: it has what was erased since",
            f"{again}, and destroy every older one",
        )
    if made.sha256 != digest(content):
        return warning(about, f"its backup has {made.seals} seals, and there are {len(seals.seals)}", again)
    if made.drilled_at is None or now - made.drilled_at > DRILL_EVERY_S:
        never = "a backup was never tried"
        seen = (
            never
            if made.drilled_at is None
            else f"a backup was last tried {int((now - made.drilled_at) / 86_400)} days ago"
        )
        return warning(about, seen, f"cloister keys drill {made.to}")
    days = int((now - made.drilled_at) / 86_400)
    return ok(about, f"epoch {seals.epoch}, {made.seals} seals, all in {made.to}; tried {days} days ago")
