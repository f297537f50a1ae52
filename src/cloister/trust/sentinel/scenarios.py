"""The self-test: for each finding a story that must raise it, and the same story, tamer, that must raise nothing.

A story is what the log would hold. `cloister alerts selftest` puts it into the real log as one probe, from where it takes
the way of every event; unit tests feed both stories to a detector. Whoever adds a rule adds a story: a test counts them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import timestamp

_PROJECT: Final = "selftest-project-00000000"
_ENDPOINT: Final = "ep-selftest-endpoint-00000000"
_HOME: Final = "198.51.100.7"
_AWAY: Final = "203.0.113.9"
# Addresses for documentation (RFC 5737), as the ids are nobody's.


@dataclass(frozen=True, slots=True)
class Scenario:
    rule: str
    story: tuple[Event, ...]
    tame: tuple[Event, ...]
    """Raises nothing."""
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    """The threat lists that it needs: the operator's own may be empty."""


Story = list[tuple[float, dict[str, Any]]]
"""Seconds before the end, and what differs from an event of the project by a role at home."""


def scenarios(now: datetime) -> list[Scenario]:
    """Of every rule that raises an alarm."""
    found = [
        Scenario(rule, _events(now, alarming), _events(now, tame)) for rule, (alarming, tame) in _stories().items()
    ]
    return found + _listed(now)


def probes(now: datetime, *, actor: str, run: str) -> list[Event]:
    """The stories as the log takes them."""
    return [
        Event(
            action=Action.SENTINEL_PROBE,
            actor=actor,
            resource=run,
            details={"rule": each.rule, "events": [_flat(event) for event in each.story]}
            | ({"lists": each.lists} if each.lists else {}),
        )
        for each in scenarios(now)
    ]


def _flat(event: Event) -> dict[str, Any]:
    return {name: value for name in event.__struct_fields__ if (value := getattr(event, name)) not in ("", {})}


def _events(now: datetime, story: Story) -> tuple[Event, ...]:
    usual: dict[str, Any] = {"actor": "role:app", "project_id": _PROJECT, "endpoint_id": _ENDPOINT, "address": _HOME}
    return tuple(
        Event(**(usual | differences | {"at": timestamp((now - timedelta(seconds=ago)).astimezone(UTC))}))
        for ago, differences in story
    )


def _stories() -> Mapping[str, tuple[Story, Story]]:
    denied = {"action": Action.CONNECTION_DENIED, "outcome": "denied", "reason": "bad_password"}
    opened = {"action": Action.CONNECTION_OPENED}
    cancel = {"action": Action.CONNECTION_CANCEL, "reason": "unknown_key"}
    person = {"actor": "user:00000000-0000-0000-0000-000000000000", "request_id": "selftest"}
    platform = {"actor": "platform:api", "address": ""}
    backup = platform | {"branch_id": "br-main", "resource": "main"}
    passkey = person | {"action": Action.PASSKEY_ADD, "project_id": "", "endpoint_id": ""}
    aged = platform | {"action": Action.COMPUTE_AGED, "outcome": "failed"}
    machine = {"details": {"name": "ci", "role": "editor", "owner": "dev@example.org", "keys": 1}}
    day = 86_400.0
    week = _weeks(lambda _: opened | {"details": {"application_name": "web"}})
    read = {"action": Action.CONNECTION_CLOSED}
    reading = {"action": Action.CONNECTION_READING}
    reads = _weeks(lambda n: read | {"details": {"bytes_out": 1_000_000 + 50_000 * (n % 5)}})
    of_pii = _weeks(lambda n: read | {"details": {"bytes_out": 1_000_000 + 50_000 * (n % 5), "tags": "pii"}})
    of_rows = _weeks(lambda n: read | {"details": {"bytes_out": 200_000, "rows_out": 2_000 + 100 * (n % 5)}})
    of_pii_rows = _weeks(lambda n: read | {"details": {"bytes_out": 200_000, "rows_out": 2_000 + n % 5, "tags": "pii"}})
    calls = _weeks(lambda _: person | {"action": Action.PROJECT_LIST})
    update = person | {"action": Action.PROJECT_UPDATE}
    asked = {"email": "dev@example.org"}
    broken = asked | {"break_glass": True}
    observed = {"actor": "platform:sentinel", "address": "", "outcome": "failed"}
    refused = {
        "action": Action.API_REFUSED,
        "outcome": "denied",
        "project_id": "",
        "endpoint_id": "",
        "actor": "stranger",
    }
    statement = {"action": Action.STATEMENT_REFUSED, "outcome": "denied", "address": ""}
    given = {"action": Action.ROLE_EMPOWER, "address": ""}
    copied = person | {
        "action": Action.BRANCH_CREATE,
        "branch_id": "br-copy",
        "details": {"of_protected": True, "parent": "br-main"},
    }
    copies = _weeks(lambda _: copied)
    level = person | {"action": Action.AUDIT_LEVEL_SET}
    kept = person | {"action": Action.AUDIT_RETENTION_SET, "project_id": "", "org_id": "org-calm-forest-12345678"}
    shortened = {"class": "statements", "days": 365, "before": 2555, "is_shorter": True}
    way_out = platform | {"action": Action.EGRESS_REFUSED, "outcome": "denied", "resource": "db.example.com:5432"}
    root = {"actor": "platform:agent", "address": "", "project_id": "", "endpoint_id": "", "action": Action.KEY_ROOT}
    round_ = {"actor": "platform:supervisor", "address": "", "project_id": "", "endpoint_id": "", "outcome": "failed"}
    channel = observed | {"action": "sentinel.channel_failed", "resource": "export kept"}
    on_host = {"actor": "platform:root", "address": "", "project_id": "", "endpoint_id": ""}
    nothing: Story = []
    return {
        "failed-logins": (_times(10, 1, denied), _times(9, 1, denied)),
        "password-spraying": (
            [(10 - n, denied | {"actor": f"role:r{n}"}) for n in range(8)],
            [(10 - n, denied | {"actor": f"role:r{n % 7}"}) for n in range(8)],
        ),
        "distributed-guessing": (
            [(10 - n, denied | {"address": f"10.0.{n}.1"}) for n in range(10)],
            [(10 - n, denied | {"address": f"10.0.0.{n}"}) for n in range(9)],
        ),
        "brute-force-succeeded": (
            [*_times(10, 1, denied), (0, opened)],
            # Somebody else is let in.
            [*_times(9, 1, denied), (0, opened), (0, opened | {"address": _AWAY})],
        ),
        "new-network": (
            [*week, (0, opened | {"address": _AWAY, "details": {"application_name": "web"}})],
            [*week, (0, opened | {"address": "198.51.100.99", "details": {"application_name": "web"}})],
        ),
        "new-program": (
            [*week, (0, opened | {"details": {"application_name": "psql"}})],
            [*week, (0, opened | {"details": {"application_name": "web"}})],
        ),
        "unusual-hour": (
            [*_days(16, opened, hours=10), (0, opened)],
            [*_days(16, opened, hours=2), (0, opened)],
        ),
        "dormant-role": ([(60 * day, opened), (0, opened)], [(30 * day, opened), (0, opened)]),
        "endpoint-enumeration": (
            [(20 - n, denied | {"endpoint_id": f"ep-none-{n}", "actor": f"role:r{n % 3}"}) for n in range(15)],
            [(20 - n, denied | {"endpoint_id": f"ep-none-{n}", "actor": f"role:r{n % 3}"}) for n in range(14)],
        ),
        "cancel-guessing": (_times(10, 1, cancel), _times(9, 1, cancel)),
        "unusual-read": (
            [*reads, (0, read | {"details": {"bytes_out": 900_000_000}})],
            [*reads, (0, read | {"details": {"bytes_out": 60_000_000}})],
        ),
        "unusual-read-of-pii": (
            # It goes on.
            [*of_pii, (0, reading | {"details": {"bytes_out": 12_000_000, "tags": "pii, prod"}})],
            # As much of what is not tagged.
            [*of_pii, (0, read | {"details": {"bytes_out": 12_000_000}})],
        ),
        "unusual-rows": (
            [*of_rows, (0, reading | {"details": {"bytes_out": 30_000_000, "rows_out": 1_500_000}})],
            [*of_rows, (0, reading | {"details": {"bytes_out": 30_000_000, "rows_out": 900_000}})],
        ),
        "unusual-rows-of-pii": (
            [*of_pii_rows, (0, read | {"details": {"bytes_out": 4_000_000, "rows_out": 120_000, "tags": "pii"}})],
            [*of_pii_rows, (0, read | {"details": {"bytes_out": 4_000_000, "rows_out": 120_000}})],
        ),
        "hostile-statement": (
            [(0, statement | {"reason": "COPY PROGRAM", "details": {"count": 1}})],
            [(0, statement | {"reason": "CREATE EXTENSION", "details": {"count": 1}})],
        ),
        "refused-statements": (
            [(0, statement | {"reason": "GRANT ROLE", "details": {"count": 30}})],
            [(0, statement | {"reason": "GRANT ROLE", "details": {"count": 29}})],
        ),
        "role-empowered": (
            [(0, given | {"reason": "BYPASSRLS", "details": {"count": 1, "to": "reader"}})],
            # Refused by PostgreSQL or the guard: nobody has got anything.
            [(0, statement | {"reason": "GRANT ROLE", "details": {"count": 1}})],
        ),
        "granted-to-public": (
            [(0, given | {"reason": "a table to PUBLIC", "details": {"count": 1, "to": "PUBLIC"}})],
            [(0, statement | {"reason": "GRANT", "details": {"count": 1}})],
        ),
        "branch-flood": (
            _times(40, 5, person | {"action": Action.BRANCH_CREATE}),
            _times(40, 60, person | {"action": Action.BRANCH_CREATE}),
        ),
        "deletion-spree": (
            _times(25, 5, person | {"action": Action.BRANCH_DELETE}),
            _times(25, 5, {"actor": "platform:api", "action": Action.BRANCH_DELETE}),
        ),
        "protected-branch-attempts": (
            _times(3, 5, person | {"action": Action.BRANCH_DELETE, "outcome": "failed", "reason": "unprocessable"}),
            _times(3, 5, person | {"action": Action.BRANCH_DELETE, "outcome": "failed", "reason": "not_found"}),
        ),
        "protection-removed": (
            [(0, person | {"action": Action.BRANCH_UNPROTECT})],
            [(0, person | {"action": Action.BRANCH_PROTECT})],
        ),
        "tag-lifted": (
            [(0, person | {"action": Action.TAG_LIFT, "resource": "main", "details": {"lifted": "pii"}})],
            [(0, person | {"action": Action.TAG_SET, "resource": "main", "details": {"added": "pii", "removed": ""}})],
        ),
        "unprotected-data": (
            [(0, platform | {"action": Action.BRANCH_ADVISE, "branch_id": "br-main", "details": {"tags": "pii"}})],
            [(0, person | {"action": Action.TAG_SET, "branch_id": "br-main", "details": {"added": "pii"}})],
        ),
        "break-glass": (
            [(0, person | {"action": Action.ACCESS_REQUEST, "reason": "INC-7", "details": broken})],
            [(0, person | {"action": Action.ACCESS_REQUEST, "reason": "INC-7", "details": asked})],
        ),
        "decision-refused": (
            [(0, person | {"action": Action.ACCESS_APPROVE, "outcome": "failed", "reason": "forbidden"})],
            # Somebody else was quicker.
            [(0, person | {"action": Action.ACCESS_APPROVE, "outcome": "failed", "reason": "conflict"})],
        ),
        "privilege-change": (
            [(0, person | {"action": Action.MEMBER_ADD, "details": {"email": "new@example.org", "role": "admin"}})],
            [(0, person | {"action": Action.MEMBER_ADD, "details": {"email": "new@example.org", "role": "viewer"}})],
        ),
        "api-new-network": (
            [*calls, (0, person | {"action": Action.PROJECT_LIST, "address": _AWAY})],
            [*calls, (0, person | {"action": Action.PROJECT_LIST})],
        ),
        "api-guessing": (
            [(0, refused | {"reason": "unauthenticated", "details": {"count": 50}})],
            [(0, refused | {"reason": "unauthenticated", "details": {"count": 49}})],
        ),
        "orphaned-service-account": (
            [(0, platform | {"action": Action.SERVICE_ACCOUNT_ORPHAN, "project_id": "", "endpoint_id": ""} | machine)],
            [(0, person | {"action": Action.SERVICE_ACCOUNT_UPDATE, "project_id": "", "endpoint_id": ""} | machine)],
        ),
        "passkey-copied": (
            [(0, person | {"action": Action.KEY_SCHEDULE, "outcome": "failed", "reason": "passkey_counter"})],
            [(0, person | {"action": Action.KEY_SCHEDULE, "outcome": "failed", "reason": "passkey_needed"})],
        ),
        "passkey-refused": (
            [(0, person | {"action": Action.PROJECT_DELETE, "outcome": "failed", "reason": "passkey_other_request"})],
            [(0, person | {"action": Action.PROJECT_DELETE, "outcome": "failed", "reason": "passkey_expired"})],
        ),
        "first-passkey": (
            [(0, passkey | {"details": {"name": "key ring", "is_first": True, "email": "dev@example.org"}})],
            [(0, passkey | {"details": {"name": "drawer", "is_first": False, "email": "dev@example.org"}})],
        ),
        "passkeys-recovered": (
            [(0, platform | {"action": Action.PASSKEY_RECOVER, "details": {"email": "dev@example.org"}})],
            [(0, person | {"action": Action.PASSKEY_REMOVE, "details": {"name": "key ring", "left": 1}})],
        ),
        "passkey-demand-lifted": (
            [(0, person | {"action": Action.PASSKEY_POLICY, "details": {"required": False, "was": True}})],
            [(0, person | {"action": Action.PASSKEY_POLICY, "details": {"required": True, "was": False}})],
        ),
        "consent-demand-lifted": (
            [(0, person | {"action": Action.CONSENT_POLICY, "details": {"required": False, "was": True}})],
            [(0, person | {"action": Action.CONSENT_POLICY, "details": {"required": True, "was": True}})],
        ),
        "dead-key-used": ([(0, refused | {"reason": "key_expired"})], [(0, refused | {"reason": "unauthenticated"})]),
        "key-unwrap-spike": (
            _times(40, 2, platform | {"action": Action.KEY_UNWRAP}),
            [
                *_times(20, 15, platform | {"action": Action.KEY_UNWRAP, "reason": "open"}),
                *_times(20, 0.1, platform | {"action": Action.KEY_UNWRAP, "reason": "back_up"}),
            ],
        ),
        "key-denied": (
            [(0, {"actor": "uid:1000", "address": "", "action": Action.KEY_DENIED, "details": {"command": "Unwrap"}})],
            [(0, platform | {"action": Action.KEY_UNWRAP})],
        ),
        "statements-erased": (
            [(0, person | {"action": Action.AUDIT_ERASE, "reason": "asked for", "details": {"statements": 40}})],
            [
                (0, person | {"action": Action.AUDIT_ERASE_ASK, "reason": "asked for"}),
                (1, person | {"action": Action.AUDIT_ERASE, "outcome": "failed", "reason": "forbidden"}),
            ],
        ),
        "person-forgotten": (
            [
                (
                    0,
                    person
                    | {"action": Action.AUDIT_FORGET, "reason": "asked for", "details": {"kind": "role", "events": 7}},
                )
            ],
            [
                (0, person | {"action": Action.AUDIT_FORGET_ASK, "reason": "asked for", "details": {"kind": "role"}}),
                (1, person | {"action": Action.AUDIT_FORGET, "outcome": "failed", "reason": "forbidden"}),
            ],
        ),
        "legal-hold-lifted": (
            [(0, person | {"action": Action.AUDIT_HOLD_LIFT, "reason": "settled"})],
            [
                (0, person | {"action": Action.AUDIT_HOLD_LIFT_ASK, "reason": "settled"}),
                (1, person | {"action": Action.AUDIT_HOLD_LIFT, "outcome": "failed", "reason": "forbidden"}),
            ],
        ),
        "audit-retention-shortened": (
            [(0, kept | {"details": shortened | {"holds_from": "2030-01-08T00:00:00.000000Z"}})],
            [
                (0, kept | {"details": {"class": "statements", "days": 2555, "before": 365, "is_shorter": False}}),
                (1, kept | {"action": Action.AUDIT_RETENTION_ASK, "details": {"class": "statements", "days": 365}}),
            ],
        ),
        "wake-flood": (
            _times(60, 8, platform | {"action": Action.COMPUTE_START}),
            _times(60, 12, platform | {"action": Action.COMPUTE_START}),
        ),
        "crash-loop": (
            _times(3, 30, platform | {"action": Action.COMPUTE_CRASHED}),
            _times(2, 30, platform | {"action": Action.COMPUTE_CRASHED}),
        ),
        "xid-age": (
            [(0, aged | {"details": {"percent": 25, "xids": 540_000_000, "multixacts": 1}})],
            nothing,
        ),
        "xid-exhaustion": (
            [(0, aged | {"details": {"percent": 75, "xids": 1_620_000_000, "multixacts": 1}})],
            nothing,
        ),
        "allow-list-widened": (
            [(0, update | {"details": {"widens": "allow_list"}})],
            [(0, update | {"details": {"name": "x"}})],
        ),
        "channel-binding-lifted": (
            [(0, update | {"details": {"loosens": "channel_binding"}})],
            [(0, update | {"details": {"settings": "require_channel_binding=True"}})],
        ),
        "retention-shortened": ([(0, update | {"details": {"shortens": "history"}})], [(0, update)]),
        "audit-lowered": (
            [(0, level | {"details": {"before": "full", "level": "off", "is_lowered": True}})],
            [(0, level | {"details": {"before": "off", "level": "full", "is_lowered": False}})],
        ),
        "issuer-added": (
            [(0, person | {"action": Action.JWKS_CREATE})],
            [(0, person | {"action": Action.JWKS_CREATE, "outcome": "failed"})],
        ),
        "way-out-opened": (
            [(0, person | {"action": Action.EGRESS_ALLOW, "resource": "db.example.com:5432"})],
            [(0, person | {"action": Action.EGRESS_REMOVE, "resource": "db.example.com:5432"})],
        ),
        "way-out-inside": (
            [(0, way_out | {"reason": "db.example.com leads to a private network"})],
            [(0, way_out | {"reason": "db.example.com:5432 does not answer"})],
        ),
        "protected-copied": (
            [*copies, (0, copied | {"actor": "key:another"})],
            [*copies, (0, copied)],
        ),
        "statements-gap": (
            [(0, platform | {"action": Action.STATEMENTS_GAP, "outcome": "failed", "details": {"statements": 9}})],
            nothing,
        ),
        "backup-damaged": (
            [(0, backup | {"action": Action.BACKUP_CHECK, "outcome": "failed", "details": {"damaged": 2}})],
            [(0, backup | {"action": Action.BACKUP_CHECK, "outcome": "ok", "details": {"damaged": 0}})],
        ),
        "backup-failed": (
            [
                (
                    0,
                    backup
                    | {
                        "action": Action.BACKUP_FAIL,
                        "outcome": "failed",
                        "reason": "the store answers 503",
                        "details": {"what": "WAL", "failures": 3},
                    },
                )
            ],
            [(0, backup | {"action": Action.BACKUP_TAKE})],
        ),
        "backup-store-changed": (
            [(0, on_host | {"action": Action.STORE_REMOVE, "resource": "s3://kept/db/"})],
            [(0, on_host | {"action": Action.STORE_SET, "resource": "s3://kept/db/", "outcome": "failed"})],
        ),
        "platform-recovered": (
            [
                (
                    0,
                    on_host
                    | {
                        "action": Action.PLATFORM_RECOVER,
                        "resource": "s3://kept/db/",
                        "details": {"moment": "2026-11-30T03:00:00+00:00", "until": 7},
                    },
                )
            ],
            [(0, on_host | {"action": Action.STORE_SET, "resource": "s3://kept/db/", "outcome": "failed"})],
        ),
        "backup-overdue": (
            [
                (
                    0,
                    backup
                    | {
                        "action": Action.BACKUP_OVERDUE,
                        "outcome": "failed",
                        "details": {"what": "WAL", "sent_until": "2026-11-30T03:00:00+00:00"},
                    },
                )
            ],
            [(0, backup | {"action": Action.BACKUP_LIST})],
        ),
        "audit-mismatch": ([(0, platform | {"action": Action.AUDIT_MISMATCH, "outcome": "failed"})], nothing),
        "operation-failed": ([(0, platform | {"action": Action.OPERATION_FAILED, "outcome": "failed"})], nothing),
        "audit-gap": (
            [(0, observed | {"action": "sentinel.audit_gap", "reason": "missing", "details": {"after": 7}})],
            nothing,
        ),
        "flow-open": (
            [(0, round_ | {"action": Action.FLOW_OPEN, "reason": "gateway can read root_key"})],
            [(0, round_ | {"action": Action.FLOW_CLOSED, "outcome": "ok", "reason": "gateway can read root_key"})],
        ),
        "secret-in-log": (
            [
                (
                    0,
                    round_
                    | {
                        "action": Action.LOG_SECRET,
                        "resource": "api.log",
                        "reason": "an API key",
                        "details": {"offset": 7, "count": 1},
                    },
                )
            ],
            nothing,
        ),
        "repair-overdue": (
            [
                (
                    0,
                    round_
                    | {
                        "action": Action.REPAIR_OVERDUE,
                        "resource": "libssl3",
                        "details": {"installed": "3.0.1", "repaired": "3.0.2", "days": 15},
                    },
                )
            ],
            [(0, round_ | {"action": Action.REPAIR_DONE, "outcome": "ok", "resource": "libssl3"})],
        ),
        "certificate-strange": (
            [(0, round_ | {"action": Action.CERTIFICATE_STRANGE, "resource": "00" * 32})],
            nothing,
        ),
        "root-key-changed": (
            [(0, root | {"details": {"provider": "aws", "root_version": "arn:aws:kms:…"}})],
            [(0, root | {"outcome": "denied"})],
        ),
        "rotation-failed": (
            [(0, platform | {"action": Action.KEY_OVERDUE, "outcome": "failed", "reason": "overdue"})],
            [(0, platform | {"action": Action.KEY_ROTATE})],
        ),
        "lock-missing": (
            [(0, channel | {"reason": "answered 400 InvalidRequest: Bucket is missing Object Lock Configuration"})],
            nothing,
        ),
        "witness-disagrees": (
            [(0, channel | {"reason": "has a checkpoint of 9 events, and 7 are signed here: the log was rolled back"})],
            nothing,
        ),
        "certificate-ends": (
            [
                (
                    0,
                    observed
                    | {
                        "action": "sentinel.certificate_ends",
                        "resource": "chain.pem",
                        "details": {"not_after": "tomorrow"},
                    },
                )
            ],
            nothing,
        ),
        "alerting-degraded": (
            [(0, observed | {"action": "sentinel.channel_failed", "resource": "mail", "reason": "timeout"})],
            nothing,
        ),
        "event-skipped": (
            [
                (
                    0,
                    observed
                    | {
                        "action": "sentinel.event_skipped",
                        "reason": "unusual-read",
                        "details": {"seq": 7, "skipped": 1},
                    },
                )
            ],
            nothing,
        ),
        "sentinel-overloaded": ([(0, observed | {"action": "sentinel.overloaded", "details": {"lost": 9}})], nothing),
    }


def _listed(now: datetime) -> list[Scenario]:
    """A login, a failed one and a probe, from an address that is on a list, and from one that is not."""
    away = {"address": _AWAY}
    opened = away | {"action": Action.CONNECTION_OPENED}
    denied = away | {"action": Action.CONNECTION_DENIED, "outcome": "denied", "reason": "bad_password"}
    probe = denied | {"reason": "no_endpoint"}
    home = {"address": _HOME}
    return [
        Scenario(f"{name}-{what}", _events(now, [(0, event)]), _events(now, [(0, event | home)]), {file: [_AWAY]})
        for name, file in (("listed", "malicious"), ("tor", "tor"))
        for what, event in (("login", opened), ("failed-login", denied), ("probe", probe))
    ]


def _times(count: int, seconds: float, event: dict[str, Any]) -> Story:
    return [((count - n) * seconds, event) for n in range(count)]


def _days(count: int, event: dict[str, Any], *, hours: float) -> Story:
    """One a day, so many hours before the hour of the end."""
    return [((count - n) * 86_400.0 + hours * 3600, event) for n in range(count)]


def _weeks(make: Callable[[int], dict[str, Any]]) -> Story:
    """Three events a day for eight days."""
    return [((24 - n) * 86_400.0 / 3, make(n)) for n in range(25)]
