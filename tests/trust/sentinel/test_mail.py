"""Alerts by mail, to a real mail server: over verified TLS or not at all, and what it refused did not arrive."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from cloister.trust.audit import Action, Event
from cloister.trust.sentinel.channels import Mail
from cloister.trust.sentinel.delivery import Delivery, attempt
from cloister.trust.sentinel.rules import Level
from cloister.trust.sentinel.store import ALIVE_PER_RULE_MAX
from tests.fix_database import DatabaseAs
from tests.trust.sentinel.receiver import make_certificate
from tests.trust.sentinel.test_delivery import FINDING, raise_one

USER, PASSWORD = "cloister", "a password of the mail server"


@dataclass
class Postman:
    """What a mail server is asked, and how it answers."""

    refused: frozenset[str] = frozenset()
    lines: list[bytes] = field(default_factory=list)
    """Everything that came before TLS, and after it."""
    taken: list[Message] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    is_encrypted: list[bool] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - its name there
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.taken.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(envelope.rcpt_tos)
        self.is_encrypted.append(
            server.transport is not None and server.transport.get_extra_info("ssl_object") is not None
        )
        return "250 OK"

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


class Overheard(SMTP):
    """Keeps every line as it came."""

    def data_received(self, data: bytes) -> None:
        self.event_handler.lines.append(data)
        super().data_received(data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mail") / "both.pem"
    make_certificate(path)
    return path


@asynccontextmanager
async def mail_server(
    certificate: Path,
    postman: Postman,
    *,
    tls: Literal["starttls", "implicit", "none"] = "starttls",
    asks: bool = False,
) -> AsyncIterator[int]:
    """Its port. `asks`: for a password, and only once the line is encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    options: dict[str, Any] = {"tls_context": context, "require_starttls": True} if tls == "starttls" else {}
    if asks:
        options |= {"authenticator": postman.authenticate, "auth_required": True}
    server = await asyncio.get_running_loop().create_server(
        lambda: Overheard(postman, enable_SMTPUTF8=False, hostname="mail.example.org", **options),
        "127.0.0.1", 0, ssl=context if tls == "implicit" else None,
    )  # fmt: skip
    async with server:
        yield server.sockets[0].getsockname()[1]


def mail(port: int, certificate: Path, **changes: Any) -> Mail:
    given: dict[str, Any] = {
        "name": "team", "host": "127.0.0.1", "port": port, "sender": "cloister@example.org", "to": ["a@example.org"],
        "ca_file": str(certificate), "private": True,
    }  # fmt: skip
    return Mail(**(given | changes))


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_mail_arrives_encrypted_and_says_what_to_do(
    certificate: Path, tls: Literal["starttls", "implicit"]
) -> None:
    """To everybody who was named, from whom it says, with the finding in its words."""
    postman = Postman()
    async with mail_server(certificate, postman, tls=tls) as port:
        channel = mail(port, certificate, tls=tls, to=["a@example.org", "b@example.org"])
        assert await attempt(channel, FINDING | {"title": "Ten\r\nBcc: c@example.org"}, "raised", 7) == ""
    (message,) = postman.taken
    assert postman.is_encrypted == [True]
    assert postman.recipients == [["a@example.org", "b@example.org"]]
    assert message["Subject"] == "[cloister medium] Ten??Bcc: c@example.org"
    assert (message["From"], message["To"], message["Bcc"]) == (
        "cloister@example.org",
        "a@example.org, b@example.org",
        None,
    )
    assert message["Auto-Submitted"] == "auto-generated"
    text = str(message.get_payload())
    assert "What to do: Ask" in text
    assert "cloister alerts show fd-0123456789ab" in text


ABOUT_BOB: dict[str, Any] = FINDING | {
    "level": "low",
    "title": "An account got its first passkey",
    "summary": "bob@example.org registered\r\na passkey",
    "subject": {"person": "bob@example.org", "address": "192.0.2.1"},
}


async def test_whom_it_is_about_is_told_in_other_words_whatever_its_level(certificate: Path) -> None:
    """And the operators only what they asked for: neither sees who else was told."""
    postman = Postman()
    async with mail_server(certificate, postman) as port:
        channel = mail(port, certificate, people=True)
        assert await attempt(channel, ABOUT_BOB, "raised", 7) == ""
        assert await attempt(channel, ABOUT_BOB | {"level": "high"}, "raised", 8) == ""
    assert postman.recipients == [["bob@example.org"], ["a@example.org"], ["bob@example.org"]]
    message = postman.taken[0]
    assert (message["Subject"], message["To"]) == ("[cloister] An account got its first passkey", "bob@example.org")
    text = str(message.get_payload())
    assert text.startswith("An account got its first passkey: yours.\r\n\r\n  when: 2026-05-01T12:00:00.000000Z\r\n")
    assert "cloister alerts" not in text


@pytest.mark.parametrize(
    ("changes", "finding", "kind"),
    [
        ({"people": False}, {}, "raised"),
        ({}, {"is_test": True}, "raised"),
        ({}, {"level": "high"}, "escalated"),
        ({}, {"subject": {"address": "192.0.2.1"}}, "raised"),
        ({}, {"subject": {"person": "bob@example.org, mallory@example.org"}}, "raised"),
        ({}, {"subject": {"person": "bob@example.org\r\nBcc: mallory@example.org"}}, "raised"),
    ],
)
async def test_nobody_else_is_told(
    certificate: Path, changes: dict[str, Any], finding: dict[str, Any], kind: str
) -> None:
    """Not by a channel for operators only, of a test, again, of what is about nobody, or at what is no address."""
    postman = Postman()
    async with mail_server(certificate, postman) as port:
        channel = mail(port, certificate, **({"people": True, "level": "low"} | changes))
        assert await attempt(channel, ABOUT_BOB | finding, kind, 7) == ""
    assert postman.recipients == [["a@example.org"]]


async def test_a_password_is_given_over_tls_and_a_wrong_one_is_no_arrival(certificate: Path) -> None:
    """And what the server says of it is what the operator reads."""
    postman = Postman()
    async with mail_server(certificate, postman, asks=True) as port:
        right = mail(port, certificate, username=USER, password=PASSWORD)
        assert await attempt(right, FINDING, "raised", 7) == ""
        wrong = msgspec.structs.replace(right, password="another")
        assert "535" in await attempt(wrong, FINDING, "raised", 8)
        assert "530" in await attempt(mail(port, certificate), FINDING, "raised", 9)
    assert len(postman.taken) == 1
    assert postman.logins[0] == (USER.encode(), PASSWORD.encode())
    assert set(postman.logins[1:]) == {(USER.encode(), b"another")}, "by each mechanism"


async def test_nothing_is_said_in_clear_to_a_server_without_tls(certificate: Path) -> None:
    """Neither the password nor a word of the finding: a man in the middle need only leave STARTTLS out."""
    postman = Postman()
    async with mail_server(certificate, postman, tls="none") as port:
        channel = mail(port, certificate, username=USER, password=PASSWORD)
        assert "STARTTLS" in await attempt(channel, FINDING, "raised", 7)
    assert postman.taken == []
    assert {line.split()[0].lower() for line in postman.lines} <= {b"ehlo", b"quit"}


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("changes", [{"ca_file": ""}, {"host": "localhost"}], ids=["unknown authority", "other name"])
async def test_a_certificate_that_is_not_trusted_or_of_another_name_gets_nothing(
    certificate: Path, tls: Literal["starttls", "implicit"], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was looked at is called, and still it is the name that is verified."""
    postman = Postman()
    monkeypatch.setattr("cloister.trust.sending.targets.resolved", here)
    async with mail_server(certificate, postman, tls=tls) as port:
        channel = mail(port, certificate, tls=tls, **changes)
        assert "certificate" in (await attempt(channel, FINDING, "raised", 7)).lower()
    assert postman.taken == []
    assert {line.split()[0].lower() for line in postman.lines} <= {b"ehlo", b"starttls"}


async def here(host: str, port: int, *, private: bool) -> str:
    return "127.0.0.1"


@pytest.mark.parametrize(
    ("refused", "arrives"), [({"a@example.org"}, True), ({"a@example.org", "b@example.org"}, False)]
)
async def test_it_arrived_if_anybody_got_it(certificate: Path, refused: set[str], arrives: bool) -> None:
    """It is not sent again and again to who did, because of who left."""
    postman = Postman(refused=frozenset(refused))
    async with mail_server(certificate, postman) as port:
        channel = mail(port, certificate, to=["a@example.org", "b@example.org"])
        assert (await attempt(channel, FINDING, "raised", 7) == "") == arrives
    assert len(postman.taken) == arrives


async def test_a_finding_waits_for_a_mail_server_that_is_away(
    database_as: DatabaseAs, certificate: Path, tmp_path: Path
) -> None:
    """From the log to the mailbox, once."""
    path = tmp_path / "channels.json"
    path.write_bytes(msgspec.json.encode([mail(1, certificate)]))
    delivery = Delivery(await database_as("cloister_sentinel"), path, observe=lambda *_: None)
    database = await raise_one(database_as, delivery)
    await delivery.step()
    postman = Postman()
    async with mail_server(certificate, postman) as port:
        path.write_bytes(msgspec.json.encode([mail(port, certificate)]))
        async with database.transaction() as tx:
            await tx.execute("UPDATE alert_delivery SET next_at = now()")
        for _ in range(2):
            await delivery.step()
    (message,) = postman.taken
    assert message["Subject"] == "[cloister critical] A key was refused"


@pytest.mark.parametrize(("people", "recipients"), [(True, [["bob@example.org"]]), (False, [])])
async def test_a_first_passkey_is_told_to_whose_it_is(
    database_as: DatabaseAs, certificate: Path, tmp_path: Path, people: bool, recipients: list[list[str]]
) -> None:
    """From the log to the mailbox, by a channel whose level it does not reach."""
    path = tmp_path / "channels.json"
    postman = Postman()
    async with mail_server(certificate, postman) as port:
        path.write_bytes(msgspec.json.encode([mail(port, certificate, people=people)]))
        delivery = Delivery(await database_as("cloister_sentinel"), path, observe=lambda *_: None)
        details = {"name": "key ring", "is_first": True, "email": "bob@example.org"}
        await raise_one(database_as, delivery, Event(action=Action.PASSKEY_ADD, actor="user:x", details=details))
        await delivery.step()
    assert postman.recipients == recipients


async def test_who_registers_a_passkey_writes_nothing_into_the_mail_about_it(certificate: Path) -> None:
    """A thief's name for it would be read as ours, by the one who is to be warned."""
    postman = Postman()
    changes = {"summary": "see https://evil.example", "subject": ABOUT_BOB["subject"] | {"address": "203.0.113.66"}}
    async with mail_server(certificate, postman) as port:
        assert await attempt(mail(port, certificate, people=True), ABOUT_BOB | changes, "raised", 7) == ""
    (message,) = postman.taken
    text = str(message.get_payload())
    assert ("evil" in text, "\r\n  from: 203.0.113.66\r\n" in text) == (False, True)


@pytest.mark.parametrize("level", [Level.LOW, Level.HIGH])
async def test_a_persons_mailbox_that_is_gone_is_no_failure_of_the_channel(certificate: Path, level: Level) -> None:
    """Nor does the team hear of it again and again because of it."""
    postman = Postman(refused=frozenset({"bob@example.org"}))
    async with mail_server(certificate, postman) as port:
        channel = mail(port, certificate, people=True, level=level)
        assert await attempt(channel, ABOUT_BOB, "raised", 7) == ""
        assert await attempt(mail(port, certificate, to=["bob@example.org"]), FINDING, "raised", 7) != ""
    assert postman.recipients == [["a@example.org"]] * (level is Level.LOW)


async def test_each_person_is_told_however_many_were_before(
    database_as: DatabaseAs, certificate: Path, tmp_path: Path
) -> None:
    """Also where the same root took the passkeys of all of them away, and where more than a rule's limit have not been answered."""
    path = tmp_path / "channels.json"
    postman = Postman()
    people = [f"p{number}@example.org" for number in range(ALIVE_PER_RULE_MAX + 2)]
    async with mail_server(certificate, postman) as port:
        path.write_bytes(msgspec.json.encode([mail(port, certificate, people=True, level=Level.CRITICAL)]))
        delivery = Delivery(await database_as("cloister_sentinel"), path, observe=lambda *_: None)
        events = [
            Event(action=Action.PASSKEY_RECOVER, actor="platform:cli", resource=each, details={"email": each})
            for each in people
        ]
        await raise_one(database_as, delivery, *events)
        for _ in range(2):  # as many as it takes at once, and the rest
            await delivery.step()
    assert sorted(postman.recipients) == sorted([each] for each in people)
