"""A batch of events as OpenTelemetry's logs (OTLP 1, in JSON), and what a collector says of it. Pure."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from cloister import __version__
from cloister.base.errors import UnavailableError

_SEVERITIES: Final = {1: (9, "INFO"), 2: (10, "INFO2"), 3: (13, "WARN"), 4: (17, "ERROR"), 5: (21, "FATAL")}
# OCSF's in OpenTelemetry's.


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int = 0
    """A number or, as Protobuf writes its 64 bits in JSON, one in quotes."""
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


def request(events: Sequence[dict[str, Any]], *, origin: str) -> bytes:
    """`ExportLogsServiceRequest`. A record's body is the event in OCSF; what it is found by is in its attributes."""
    resource = _attributes({"service.name": "cloister", "service.version": __version__, "service.namespace": origin})
    logs = {"scope": {"name": "cloister.audit"}, "logRecords": [_record(event) for event in events]}
    return json.dumps(
        {"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [logs]}]}, separators=(",", ":")
    ).encode()


def refuse_partial(answer: bytes) -> None:
    """Raises UnavailableError where the collector took less than all. Of which records it does not say, so all are sent again:
    what a log of record lacks, nobody may have to guess."""
    try:
        partial = msgspec.json.decode(answer, type=_Answer, strict=False).partial_success
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return  # an answer without a body, or in protobuf: the status has said that it took them
    if partial is not None and partial.rejected_log_records:
        raise UnavailableError(public=f"rejected {partial.rejected_log_records} events: {partial.error_message[:200]}")


def _record(event: dict[str, Any]) -> dict[str, Any]:
    meta, more = event["metadata"], event["unmapped"]
    number, text = _SEVERITIES[event["severity_id"]]
    found = {
        "cloister.audit.seq": meta["sequence"],
        "cloister.audit.uid": meta["uid"],
        "cloister.audit.action": more["action"],
        "cloister.audit.outcome": more["outcome"],
        "cloister.project_id": more.get("project_id", ""),
    }
    at = str(_nanoseconds(meta["original_time"]))
    return {
        "timeUnixNano": at,
        "observedTimeUnixNano": at,
        "severityNumber": number,
        "severityText": text,
        "eventName": more["action"],
        "body": {"stringValue": json.dumps(event, separators=(",", ":"))},
        "attributes": _attributes({name: value for name, value in found.items() if value != ""}),
    }


def _attributes(values: dict[str, str | int]) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for name, value in values.items()
    ]


def _nanoseconds(at: str) -> int:
    """Without a rounding: an event's time has six digits of a second."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return 0
    return int(moment.replace(microsecond=0).timestamp()) * 10**9 + moment.microsecond * 1000
