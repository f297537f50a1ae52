"""A finding in the words of each channel: JSON with a signature, a mail, a line of syslog. Pure.

Summaries quote strangers: names of roles, programs, addresses. No such text can become a header, a second line, a second
recipient or an escape of a terminal.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any, Final

FACILITY: Final = 10
# security/authorization messages

ENTERPRISE: Final = "cloister@32473"
"""The number is the one RFC 5612 sets aside for documentation; we have none of our own."""

_SEVERITY: Final = {"low": 5, "medium": 4, "high": 3, "critical": 2}


def webhook_body(finding: dict[str, Any], kind: str, delivery_id: int) -> bytes:
    return json.dumps(
        {"type": f"finding.{kind}", "delivery": delivery_id, "finding": finding}, ensure_ascii=True
    ).encode()


def signature(secret: str, at: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA-256 over the time, a dot, and the body. A receiver refuses old times."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


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


def syslog(finding: dict[str, Any], kind: str, *, host: str) -> bytes:
    """RFC 5424, framed by its length as RFC 5425 wants it."""
    pri = FACILITY * 8 + _SEVERITY[finding["level"]]
    named = {"id": finding["id"], "rule": finding["rule"], "level": finding["level"], "kind": kind,
             "test": str(finding["is_test"]).lower(), **finding["subject"]}  # fmt: skip
    data = " ".join(f'{name}="{_parameter(value)}"' for name, value in named.items())
    said = f"{plain(finding['title'])}: {plain(finding['summary'])}"
    line = f"<{pri}>1 {finding['last_at'] or '-'} {host or '-'} cloister - {finding['rule'][:32]} [{ENTERPRISE} {data}] {said}"
    encoded = line.encode("ascii", "replace")
    return f"{len(encoded)} ".encode() + encoded


def plain(text: str) -> str:
    """One line of printable ASCII."""
    return "".join(character if " " <= character <= "~" else "?" for character in str(text))


def _parameter(value: str) -> str:
    return plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
