"""Alerts on their way: from the spool to each channel, at least once, tried again until somebody takes them.

A channel is served in order and by itself: one that does not answer delays no other. After FAILURES_TOLD of its alerts'
attempts in a row it is a finding, which the others carry. An alert that nobody took for GIVE_UP_S is given up, and stays
visible as such.
"""

import asyncio
import contextlib
import logging
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.trust.sending import syslog, targets, webhook
from cloister.trust.sentinel import channels as config
from cloister.trust.sentinel import messages, store
from cloister.trust.sentinel.channels import Channel, Heartbeat, Mail, Syslog, Webhook
from cloister.trust.sentinel.rules import Level

log = logging.getLogger(__name__)

SEND_TIMEOUT_S: Final = 10.0
# A receiver that thinks for longer is asked again.

IDLE_S: Final = 0.5
# Between looks at the spool, when nobody pokes.

BATCH: Final = 50
# Alerts taken at once: a channel that was away catches up in some tens of seconds.

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 300.0
# 1 s, 2 s, 4 s …: a blip costs seconds, an outage of a night some hundred attempts.

GIVE_UP_S: Final = 7 * 86_400.0

FAILURES_TOLD: Final = 4
# 15 s of not answering.

ESCALATE_AFTER_S: Final = 900.0
# A grave finding that nobody acknowledged for a quarter of an hour is told again, once.

_LEVELS: Final = list(Level)


class Delivery:
    """`path`: the channels' file, read again when it changes. `observe` says that a channel fails."""

    def __init__(
        self,
        database: Database,
        path: Path,
        *,
        observe: Callable[[str, str], None],
        is_well: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._path = path
        self._observe = observe
        self._is_well = is_well
        self._poked = asyncio.Event()
        self._failures: dict[str, int] = {}
        self._beats: dict[str, float] = {}
        self._stamp: tuple[int, int] | None = None
        self._channels: list[Channel] = []

    def poke(self) -> None:
        """There is something to send."""
        self._poked.set()

    def names(self) -> list[str]:
        """Those that findings are told to."""
        return [channel.name for channel in self._current() if not isinstance(channel, Heartbeat)]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except CloisterError as error:
                log.warning("alerts wait: %s", error)
            except Exception:
                log.exception("alerts wait")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):  # wait_for may lose a cancellation in Python 3.11
                    await self._poked.wait()
            self._poked.clear()

    async def step(self) -> None:
        """Everything that is due now, once; and the heartbeats."""
        by_name = {channel.name: channel for channel in self._current()}
        async with self._database.transaction() as tx:
            await store.escalate(tx, self.names(), after_s=ESCALATE_AFTER_S)
            waiting = await store.due(tx, BATCH)
        lanes: dict[str, list[store.Delivery]] = {}
        for each in waiting:
            lanes.setdefault(each.channel, []).append(each)
        beats = [channel for channel in by_name.values() if isinstance(channel, Heartbeat)]
        await asyncio.gather(
            *(self._serve(by_name.get(name), lane) for name, lane in lanes.items()), *(self._beat(it) for it in beats)
        )
        if len(waiting) == BATCH:
            self.poke()

    async def _serve(self, channel: Channel | None, lane: Sequence[store.Delivery]) -> None:
        for each in lane:
            error = ""
            if channel is None:
                error = "the channel was removed"
            elif _is_told(channel, each):
                error = await attempt(channel, each.finding, each.kind, each.id)
                self._count(channel.name, error)
            async with self._database.transaction() as tx:
                if not error:
                    await store.delivered(tx, each.id)
                elif channel is None or each.attempts * RETRY_MAX_S > GIVE_UP_S:
                    await store.give_up(tx, each.id, error)
                else:
                    pause = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(each.attempts, 20))
                    await store.failed(tx, each.id, error, again_in_s=pause)
            if error:
                log.warning("alert %d to %s: %s", each.id, each.channel, error)
                break  # the others of this channel would fare no better, and they stay in order

    def _count(self, name: str, error: str) -> None:
        self._failures[name] = self._failures.get(name, 0) + 1 if error else 0
        if self._failures[name] == FAILURES_TOLD:
            self._observe(name, error)

    async def _beat(self, channel: Heartbeat) -> None:
        now = time.monotonic()
        if now - self._beats.get(channel.name, -1e9) < channel.every_s or not self._is_well():
            return
        self._beats[channel.name] = now
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await webhook.post(channel.url, b"{}", {}, ca_file=channel.ca_file, private=channel.private)
        except (TimeoutError, CloisterError, OSError) as error:
            log.warning("heartbeat %s: %s", channel.name, error)

    def _current(self) -> list[Channel]:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            stamp = None
        if stamp != self._stamp:
            try:
                self._channels = config.read(self._path)
            except CloisterError as error:  # what was there before is better than nobody
                log.error("%s", error)  # noqa: TRY400 - its text says all
            self._stamp = stamp
        return self._channels


async def attempt(channel: Channel, finding: dict[str, Any], kind: str, delivery_id: int) -> str:
    """Send it once. Why it did not arrive; empty if it did."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            match channel:
                case Webhook():
                    body = messages.webhook_body(finding, kind, delivery_id)
                    signed = {"Cloister-Signature": webhook.signature(channel.secret, int(time.time()), body)}
                    await webhook.post(channel.url, body, signed, ca_file=channel.ca_file, private=channel.private)
                case Mail():
                    await _send_mail(channel, finding, kind)
                case Syslog():
                    await syslog.send(
                        [messages.syslog(finding, kind, host=socket.gethostname())],
                        channel.host, channel.port, ca_file=channel.ca_file, private=channel.private,
                    )  # fmt: skip
                case Heartbeat():
                    await webhook.post(channel.url, b"{}", {}, ca_file=channel.ca_file, private=channel.private)
    except TimeoutError:
        return f"no answer within {SEND_TIMEOUT_S:g} s"
    except CloisterError as error:
        return error.public
    except (OSError, smtplib.SMTPException) as error:
        return str(error) or type(error).__name__
    return ""


def _is_told(channel: Channel, delivery: store.Delivery) -> bool:
    if isinstance(channel, Heartbeat):
        return False
    if isinstance(channel, Mail) and _person(channel, delivery.finding, delivery.kind):
        return True
    return _is_grave_enough(channel, delivery.finding)


def _is_grave_enough(channel: Webhook | Mail | Syslog, finding: dict[str, Any]) -> bool:
    return _LEVELS.index(Level(finding["level"])) >= _LEVELS.index(channel.level)


def _person(channel: Mail, finding: dict[str, Any], kind: str) -> str:
    """Whom it is about, if that person is told by this channel: once, and of no test."""
    address = finding["subject"].get("person", "")
    is_told = channel.people and kind == "raised" and not finding["is_test"]
    return address if is_told and config.is_mail_address(address) else ""


async def _send_mail(channel: Mail, finding: dict[str, Any], kind: str) -> None:
    address = await targets.resolved(channel.host, channel.port, private=channel.private)
    host = socket.gethostname()
    person = _person(channel, finding, kind)
    is_for_team = not person or _is_grave_enough(channel, finding)
    context = targets.tls(channel.ca_file)

    def send() -> None:
        # smtplib verifies the certificate against `_host`, and connects to the address that was looked at.
        session: smtplib.SMTP
        if channel.tls == "implicit":
            session = _ImplicitTls(
                address, channel.port, timeout=SEND_TIMEOUT_S / 2, context=context, named=channel.host
            )
        else:
            session = smtplib.SMTP(address, channel.port, timeout=SEND_TIMEOUT_S / 2)
        with session:
            if channel.tls == "starttls":
                session._host = channel.host  # type: ignore[attr-defined]  # noqa: SLF001 - what STARTTLS asks for
                session.starttls(context=context)
            if channel.username:
                session.login(channel.username, channel.password)
            if is_for_team:
                _hand_over(
                    session, channel, messages.mail(finding, kind, sender=channel.sender, to=channel.to, host=host)
                )
            if person:
                try:
                    _hand_over(
                        session, channel, messages.mail_to_person(finding, sender=channel.sender, to=person, host=host)
                    )
                except smtplib.SMTPRecipientsRefused as error:
                    # A mailbox that is gone is no failure of the channel; and what the team was told it is not told again.
                    if not is_for_team and not _is_for_good(error):
                        raise
                    log.warning("mail %s: refused for %s", channel.name, person)

    await asyncio.to_thread(send)


def _hand_over(session: smtplib.SMTP, channel: Mail, message: EmailMessage) -> None:
    refused = session.send_message(message)
    if refused:  # not all: who did get it shall not get it again and again
        log.warning("mail %s: refused for %s", channel.name, ", ".join(sorted(refused)))


def _is_for_good(error: smtplib.SMTPRecipientsRefused) -> bool:
    return all(code >= 500 for code, _ in error.recipients.values())


class _ImplicitTls(smtplib.SMTP_SSL):
    """Connects to an address and verifies a name."""

    def __init__(self, address: str, port: int, *, timeout: float, context: ssl.SSLContext, named: str) -> None:
        self._named = named
        super().__init__(address, port, timeout=timeout, context=context)

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        plain = socket.create_connection((host, port), timeout)
        try:
            return self.context.wrap_socket(plain, server_hostname=self._named)
        except BaseException:
            plain.close()
            raise
