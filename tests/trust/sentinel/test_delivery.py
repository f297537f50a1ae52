"""Alerts arrive, at least once, where the operator said and nowhere else; what strangers write cannot forge one."""

import asyncio
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from cloister.base.database import Database
from cloister.base.errors import BadRequestError
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.sending import targets
from cloister.trust.sentinel import channels, messages, rules
from cloister.trust.sentinel.channels import Syslog, Webhook
from cloister.trust.sentinel.delivery import FAILURES_TOLD, Delivery, attempt
from cloister.trust.sentinel.watch import Watch
from tests.fix_database import DatabaseAs
from tests.trust.sentinel.receiver import make_certificate

SECRET = "s" * 64
FINDING: dict[str, Any] = {
    "id": "fd-0123456789ab", "rule": "failed-logins", "level": "medium", "title": "Many failed logins",
    "summary": "Failed logins", "response": "Ask", "subject": {"role": "app"}, "is_test": False, "alarms": 1,
    "first_seq": 1, "last_seq": 2, "first_at": "2026-05-01T12:00:00.000000Z", "last_at": "2026-05-01T12:00:00.000000Z",
}  # fmt: skip
NASTY = 'x"] \r\nBcc: a@b.c\x1b[2J\\é'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receiver") / "both.pem"
    make_certificate(path)
    return path


@asynccontextmanager
async def receiver(certificate: Path, answer: bytes) -> AsyncIterator[tuple[int, list[bytes], asyncio.Event]]:
    """Its port, and what it was sent. Answers each connection with `answer`, or reads to the end if that is empty."""
    heard: list[bytes] = []
    came = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            heard.append(head + await reader.readexactly(length))
            writer.write(answer)
            await writer.drain()
        else:
            heard.append(await reader.read())
        came.set()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], heard, came


def webhook(port: int, certificate: Path, **changes: Any) -> Webhook:
    url = f"https://127.0.0.1:{port}/hook?x=1"
    given: dict[str, Any] = {"name": "hook", "url": url, "secret": SECRET, "ca_file": str(certificate), "private": True}
    return Webhook(**(given | changes))


async def test_a_webhook_is_signed_over_its_time_and_body(certificate: Path) -> None:
    """As docs/alerts.md tells a receiver to verify it."""
    async with receiver(certificate, b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard, _):
        assert await attempt(webhook(port, certificate), FINDING, "raised", 7) == ""
    head, _, body = heard[0].partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    signed = {name.lower(): value for name, value in fields.items()}["cloister-signature"]
    at, digest = (part.partition("=")[2] for part in signed.split(","))
    assert digest == hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert json.loads(body) == {"type": "finding.raised", "delivery": 7, "finding": FINDING}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 No\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 ",
    ],
)
async def test_only_2xx_is_an_arrival(certificate: Path, answer: bytes) -> None:
    """No redirect is followed: it could lead anywhere."""
    async with receiver(certificate, answer) as (port, heard, _):
        assert await attempt(webhook(port, certificate), FINDING, "raised", 7) != ""
        assert len(heard) == 1


async def test_an_unknown_certificate_gets_nothing(certificate: Path) -> None:
    """Not even the finding's id."""
    async with receiver(certificate, b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard, _):
        assert "certificate" in (await attempt(webhook(port, certificate, ca_file=""), FINDING, "raised", 7)).lower()
        assert heard == []


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("8.8.8.8", True, True),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("::1", False, True),
        ("fd00::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("240.0.0.1", False, False),
        ("64:ff9b::7f00:1", False, True),
        ("168.63.129.16", False, True),
    ],
)
def test_no_channel_reaches_where_only_this_host_does(address: str, public: bool, private: bool) -> None:
    """Private ones only where the operator said so; where clouds keep credentials, never."""
    assert targets.is_allowed(address, private=False) is public
    assert targets.is_allowed(address, private=True) is private


async def test_a_public_channel_whose_name_leads_home_is_refused(certificate: Path) -> None:
    """A name can be pointed to 127.0.0.1 later: the address is looked at, at every call."""
    async with receiver(certificate, b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard, _):
        said = await attempt(webhook(port, certificate, private=False), FINDING, "raised", 7)
        assert "may not call, unless it is told with --private" in said
        assert heard == []


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://u:p@a.example/", "https://a.example:0/", "https://a.example:99999/",
            "https://a.example/\r\nX: y", "https://a.example/#x", "file:///etc/passwd", "https:///x"]
)  # fmt: skip
def test_a_target_is_https_and_nothing_clever(url: str) -> None:
    """What is no plain https URL is refused when it is written down."""
    with pytest.raises(BadRequestError):
        channels.checked([Webhook(name="x", url=url, secret=SECRET)])


def test_a_strangers_text_stays_inside_its_field() -> None:
    """In a mail no header and no escape; in syslog one line, one element, closed where we close it."""
    finding = FINDING | {"title": NASTY, "summary": NASTY, "subject": {"role": NASTY}}
    mail = messages.mail(finding, "raised", sender="a@example.org", to=["b@example.org"], host="h")
    assert mail["Bcc"] is None
    assert b"\x1b" not in bytes(mail)
    line = messages.syslog(finding, "raised", host="h")
    length, _, rest = line.partition(b" ")
    assert len(rest) == int(length)
    assert b"\n" not in rest
    assert rest.startswith(b"<84>1 2026-05-01T12:00:00.000000Z h cloister - failed-logins [cloister@32473 id=")
    assert b'role="x\\"\\] ??Bcc: a@b.c?[2J\\\\?"]' in rest


async def test_syslog_arrives_framed(certificate: Path) -> None:
    """RFC 5425: its length, a space, the line."""
    async with receiver(certificate, b"") as (port, heard, came):
        channel = Syslog(name="s", host="127.0.0.1", port=port, ca_file=str(certificate), private=True)
        assert await attempt(channel, FINDING, "raised", 7) == ""
        await came.wait()
    assert heard[0].partition(b" ")[2].startswith(b"<84>1 ")


DENIED: Final = Event(action=Action.KEY_DENIED, actor="uid:1")


async def raise_one(database_as: DatabaseAs, delivery: Delivery, *events: Event) -> Database:
    database = await database_as("cloister_sentinel")
    watch = Watch(database, rules.shipped())
    watch.channels = delivery.names
    await watch.load()
    async with (await database_as("cloister_api")).transaction() as tx:
        at = timestamp(datetime.now(UTC))
        await record(tx, *(msgspec.structs.replace(event, at=at) for event in events or (DENIED,)))
    await watch.step()
    return database


async def test_an_alert_waits_for_a_receiver_that_is_away_and_then_arrives(
    database_as: DatabaseAs, certificate: Path, tmp_path: Path
) -> None:
    """It stays in the spool over every failure, a restart included; the failing channel is a finding of its own."""
    path = tmp_path / "channels.json"
    observed: list[str] = []
    path.write_bytes(msgspec.json.encode([webhook(1, certificate)]))

    def restarted() -> Delivery:
        return Delivery(database, path, observe=lambda name, _: observed.append(name))

    database = await database_as("cloister_sentinel")
    delivery = restarted()
    await raise_one(database_as, delivery)
    for _ in range(FAILURES_TOLD):
        async with database.transaction() as tx:
            await tx.execute("UPDATE alert_delivery SET next_at = now()")
        await delivery.step()
    assert observed == ["hook"]
    async with receiver(certificate, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (port, heard, _):
        path.write_bytes(msgspec.json.encode([webhook(port, certificate)]))
        async with database.transaction() as tx:
            await tx.execute("UPDATE alert_delivery SET next_at = now()")
        again = restarted()
        await again.step()
        await again.step()
        assert len(heard) == 1
    async with database.reading() as tx:
        row = await tx.fetch_row("SELECT attempts, delivered_at IS NOT NULL AS is_delivered FROM alert_delivery")
    assert row is not None
    assert (row["attempts"], row["is_delivered"]) == (FAILURES_TOLD + 1, True)


async def test_a_channel_is_told_only_of_what_is_grave_enough(
    database_as: DatabaseAs, certificate: Path, tmp_path: Path
) -> None:
    """A critical finding is; what is below the channel's level is passed over without a call."""
    path = tmp_path / "channels.json"
    async with receiver(certificate, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (port, heard, _):
        path.write_bytes(msgspec.json.encode([webhook(port, certificate, level="critical")]))
        delivery = Delivery(await database_as("cloister_sentinel"), path, observe=lambda *_: None)
        database = await raise_one(database_as, delivery)
        await delivery.step()
        assert len(heard) == 1
        async with database.transaction() as tx:
            await tx.execute("UPDATE finding SET level = 'low'")
            await tx.execute("UPDATE alert_delivery SET delivered_at = NULL, next_at = now()")
        await delivery.step()
        assert len(heard) == 1
