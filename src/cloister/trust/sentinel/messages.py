"""A finding in the words of each channel: JSON with a signature, a mail, a line of syslog. Pure.

Summaries quote strangers: names of roles, programs, addresses. No such text can become a header, a second line, a second
recipient or an escape of a terminal.
"""

import json
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any, Final

from cloister.trust.sending.syslog import line, plain

FACILITY: Final = 10
# security/authorization messages

_SEVERITY: Final = {"low": 5, "medium": 4, "high": 3, "critical": 2}


def webhook_body(finding: dict[str, Any], kind: str, delivery_id: int) -> bytes:
    return json.dumps(
        {"type": f"finding.{kind}", "delivery": delivery_id, "finding": finding}, ensure_ascii=True
    ).encode()


def mail(finding: dict[str, Any], kind: str, *, sender: str, to: Sequence[str], host: str) -> EmailMessage:
    message = EmailMessage()
    test = "TEST " if finding["is_test"] else ""
    again = "STILL OPEN " if kind == "escalated" else ""
    message["Subject"] = f"[cloister {test}{again}{finding['level']}] {plain(finding['title'])}"
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Message-ID"] = f"<{finding['id']}.{kind}@{host}>"
    message["Auto-Submitted"] = "auto-generated"
    subject = "\n".join(f"  {name}: {plain(value)}" for name, value in finding["subject"].items())
    message.set_content(
        f"{plain(finding['summary'])}\n\nWhat to do: {plain(finding['response'])}\n\nAbout\n{subject}\n\n"
        f"Finding {finding['id']}, rule {finding['rule']}, event {finding['last_seq']} of the audit log.\n"
        f"cloister alerts show {finding['id']}\n"
    )
    return message


def mail_to_person(finding: dict[str, Any], *, sender: str, to: str, host: str) -> EmailMessage:
    """To whom it is about. It names no link and asks for nothing, so that a false one of its kind has nothing to imitate; and it
    quotes nothing that whoever did it could choose, as the summary does: a thief would reassure the holder in our name."""
    message = EmailMessage()
    message["Subject"] = f"[cloister] {plain(finding['title'])}"
    message["From"] = sender
    message["To"] = to
    message["Message-ID"] = f"<{finding['id']}.person@{host}>"
    message["Auto-Submitted"] = "auto-generated"
    address = plain(finding["subject"].get("address", ""))
    place = f"  from: {address}\n" if address else ""
    message.set_content(
        f"{plain(finding['title'])}: yours.\n\n  when: {plain(finding['first_at'])}\n"
        f"{place}\nIf that was you, there is nothing to do. If not, tell whoever\n"
        f"runs this platform at once, by a way you know: finding {finding['id']}.\n"
    )
    return message


def syslog(finding: dict[str, Any], kind: str, *, host: str) -> bytes:
    """RFC 5424, framed by its length as RFC 5425 wants it."""
    pri = FACILITY * 8 + _SEVERITY[finding["level"]]
    named = {"id": finding["id"], "rule": finding["rule"], "level": finding["level"], "kind": kind,
             "test": str(finding["is_test"]).lower(), **finding["subject"]}  # fmt: skip
    said = f"{plain(finding['title'])}: {plain(finding['summary'])}"
    return line(pri, finding["rule"], named, said, at=finding["last_at"] or "-", host=host)
