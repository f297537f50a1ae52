"""The sentinel's process: a user of its own, which may read the audit log, keep findings, and call out: to tell people, and
to send the log on.

It opens connections to other hosts, and so it holds nothing: no key, no socket of the
agent's or the broker's, no right to change anything of a tenant's.
"""

import asyncio
import ipaddress
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from cloister.app.process import Process
from cloister.base.database import Database
from cloister.trust.audit.forwarder import Forwarder
from cloister.trust.keys.notary import read_last
from cloister.trust.sentinel.delivery import Delivery
from cloister.trust.sentinel.events import Network
from cloister.trust.sentinel.rules import shipped
from cloister.trust.sentinel.watch import BEAT_S, Watch

log = logging.getLogger(__name__)

LOOK_S: Final = 60.0
# At certificates and threat lists, which change by the day.

CERTIFICATE_DAYS: Final = 14.0
# Our own are renewed with more than this left; an operator has two weeks to renew theirs.

LIST_BYTES_MAX: Final = 16 * 1024 * 1024
# A million addresses.

_LIST_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


async def run(process: Process) -> None:
    settings = process.settings
    paths = settings.paths
    database = Database(socket_dir=paths.control_socket_dir, role="cloister_sentinel", url=settings.database_url)
    await database.open()

    watch = Watch(database, shipped())
    delivery = Delivery(
        database,
        paths.alert_channels,
        observe=lambda name, error: watch.observe("sentinel.channel_failed", resource=name, reason=error),
        is_well=lambda: time.monotonic() - watch.stepped_at < 4 * BEAT_S,
    )
    forwarder = Forwarder(
        database,
        paths.audit_exports,
        origin=settings.domain,
        signed=lambda: read_last(paths.notary),
        observe=lambda name, error: watch.observe("sentinel.channel_failed", resource=f"export {name}", reason=error),
    )
    watch.channels, watch.poke = delivery.names, delivery.poke
    try:
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(watch.run()),
                tasks.create_task(delivery.run()),
                tasks.create_task(forwarder.run()),
                tasks.create_task(_look_around(watch, paths.threats, paths.certificates / "chain.pem")),
            ]
            process.ready()
            await process.stop.wait()
            for loop in loops:
                loop.cancel()
    finally:
        await database.close()


async def _look_around(watch: Watch, threats: Path, chain: Path) -> None:
    """At what is no event: the operator's lists, and how long the certificate lasts."""
    told: datetime | None = None
    while True:
        try:
            watch.lists = read_lists(threats)
        except OSError as error:
            log.warning("threat lists: %s", error)
        try:
            ends = certificate_end(chain)
            if ends is not None and ends != told and ends - datetime.now(UTC) < timedelta(days=CERTIFICATE_DAYS):
                told = ends
                watch.observe("sentinel.certificate_ends", resource=chain.name, details={"not_after": ends.isoformat()})
        except (OSError, ValueError) as error:
            log.warning("%s: %s", chain, error)
        await asyncio.sleep(LOOK_S)


def read_lists(directory: Path) -> dict[str, frozenset[Network]]:
    """A list a file. A line that is no address or network is passed over, as are `#` and what follows it, in whatever encoding."""
    found: dict[str, frozenset[Network]] = {}
    for path in sorted(directory.iterdir()):
        if _LIST_NAME.fullmatch(path.name) and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                found[path.name] = frozenset(
                    network
                    for line in file.read(LIST_BYTES_MAX).splitlines()
                    if (network := _network(line)) is not None
                )
    return found


def certificate_end(chain: Path) -> datetime | None:
    """Of the first certificate in the file; None if there is no file yet."""
    try:
        return x509.load_pem_x509_certificate(chain.read_bytes()).not_valid_after_utc
    except FileNotFoundError:
        return None


def _network(line: str) -> Network | None:
    try:
        return ipaddress.ip_network(line.partition("#")[0].strip(), strict=False)
    except ValueError:
        return None
