"""What of a configuration is not so: it is held against the rows of the API in memory, one by one.

Nothing here is the planner's, the reader's, or of the table of nouns: what those are blind to, this sees. A setting that is not in
the table below fails whoever asks for it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from cloister.cli.api import Json
from cloister.cli.config.nouns import Node
from tests.cli.config.cloud import Cloud

Look = Callable[[Cloud, Json], Any]


def _days(record: str) -> Look:
    def look(cloud: Cloud, _: Json) -> Any:
        said = [each for each in cloud.retentions if each["record"] == record]
        return said[-1].get("days", "forever") if said else "forever"

    return look


def _review(word: str) -> Look:
    return lambda cloud, _: "never" if cloud.reviews is None else cloud.reviews[word]


def _of_settings(*words: str) -> Look:
    def look(_: Cloud, row: Json) -> Any:
        found: Any = row["settings"]
        for word in words:
            found = found[word]
        return found

    return look


def _field(word: str) -> Look:
    return lambda _, row: row[word]


def _default(word: str) -> Look:
    return lambda _, row: row["default_endpoint_settings"][word]


def _schedule(cloud: Cloud, branch: Json) -> list[str]:
    return sorted(
        " ".join([each["frequency"], *(f"{word}={number}" for word, number in each.items() if word != "frequency")])
        for each in cloud.schedules.get(branch["id"], [])
    )


def _parent(cloud: Cloud, branch: Json) -> str:
    return str(cloud.branches[branch["parent_id"]]["name"])


def _default_branch(cloud: Cloud, project: Json) -> str:
    (name,) = (it["name"] for it in cloud.branches.values() if it["project_id"] == project["id"] and it["default"])
    return str(name)


def _grants(cloud: Cloud, account: Json) -> dict[str, str]:
    return {cloud.projects[each["project_id"]]["name"]: each["role"] for each in account["grants"]}


_COMPUTE: Final[Mapping[str, Look]] = {
    "min_cu": _field("autoscaling_limit_min_cu"),
    "max_cu": _field("autoscaling_limit_max_cu"),
    "suspend_timeout_seconds": _field("suspend_timeout_seconds"),
    "disabled": _field("disabled"),
    "pg_settings": _of_settings("pg_settings"),
}

LOOKS: Final[Mapping[str, Mapping[str, Look]]] = {
    "organization": {
        "keys.rotate_days": lambda cloud, _: cloud.key_policy["rotate_days"],
        "keys.reencrypt_days": lambda cloud, _: cloud.key_policy.get("reencrypt_days", "never"),
        "passkeys.required": lambda cloud, _: cloud.passkeys,
        # That it is to be lifted is said by one, and another person agrees.
        "consents.required": lambda cloud, _: cloud.consents["required"] and "lift_asked_by" not in cloud.consents,
        "access_reviews.every_days": _review("every_days"),
        "access_reviews.answer_days": _review("answer_days"),
        "access_reviews.unanswered_rights_lapse": _review("unanswered_rights_lapse"),
        "audit_retention.statements_days": _days("statements"),
        "audit_retention.recordings_days": _days("recordings"),
    },
    "project": {
        "pg_version": _field("pg_version"),
        "store_passwords": _field("store_passwords"),
        "history_retention_seconds": _field("history_retention_seconds"),
        "audit_level": lambda cloud, project: cloud.audit_levels[project["id"]],
        "tags": _field("tags"),
        "default_branch": _default_branch,
        "block_public_connections": _of_settings("block_public_connections"),
        "require_channel_binding": _of_settings("require_channel_binding"),
        "logical_replication": _of_settings("enable_logical_replication"),
        "ip_allow.addresses": _of_settings("allowed_ips", "ips"),
        "ip_allow.protected_only": _of_settings("allowed_ips", "protected_branches_only"),
        "quota.active_time_seconds": _of_settings("quota", "active_time_seconds"),
        "quota.compute_time_seconds": _of_settings("quota", "compute_time_seconds"),
        "quota.written_data_bytes": _of_settings("quota", "written_data_bytes"),
        "quota.data_transfer_bytes": _of_settings("quota", "data_transfer_bytes"),
        "quota.logical_size_bytes": _of_settings("quota", "logical_size_bytes"),
        "defaults.min_cu": _default("autoscaling_limit_min_cu"),
        "defaults.max_cu": _default("autoscaling_limit_max_cu"),
        "defaults.suspend_timeout_seconds": _default("suspend_timeout_seconds"),
        "defaults.pg_settings": _default("pg_settings"),
    },
    "egress": {"ca_pem": _field("ca_pem")},
    "permission": {"role": _field("role")},
    "group": {"role": _field("role")},
    "member": {"role": _field("role")},
    "service_account": {
        "role": _field("role"),
        "grants": _grants,
        "owner": _field("owner"),
        "disabled": lambda _, account: account["disabled_at"] is not None,
    },
    "branch": {
        "parent": _parent,
        "protected": _field("protected"),
        "expires_at": lambda _, branch: branch.get("expires_at") or "never",
        "snapshots": _schedule,
        "tags": _field("tags"),
    },
    "compute": _COMPUTE,
    "reader": _COMPUTE,
    "role": {"login": lambda _, role: role["authentication_method"] != "no_login"},
    "database": {"owner": _field("owner_name")},
}
"""Where the rows of the API have what a file says of each kind of thing."""


def lacking(cloud: Cloud, wanted: Node) -> list[str]:
    """What is wanted and is not so, and what is there where nothing else was to be."""
    return list(_lacking(cloud, wanted, {}, "organization"))


def _lacking(cloud: Cloud, wanted: Node, row: Json, where: str) -> Iterator[str]:
    for path, value in wanted.settings.items():
        found = LOOKS[wanted.kind][path](cloud, row)
        if found != value:
            yield f"{where}: {path} is {found!r} and was to be {value!r}"
    for kind in sorted({*wanted.children, *wanted.whole}):
        rows = _rows(cloud, kind, row)
        for child in wanted.of(kind):
            if child.name not in rows:
                yield f"{where}: {kind} {child.name} is not there"
            else:
                yield from _lacking(cloud, child, rows[child.name], f"{where}, {kind} {child.name}")
        others = rows.keys() - {child.name for child in wanted.of(kind)}
        if kind in wanted.whole and others:
            yield f"{where}: {kind} {', '.join(sorted(others))} is there, and was not to be"


def _rows(cloud: Cloud, kind: str, above: Json) -> dict[str, Json]:
    """Of one kind, by what a file calls them; `above` is the row of the thing that holds them."""
    match kind:
        case "group":
            return {f"{each['issuer']}/{each['group']}": each for each in cloud.groups.values()}
        case "member":
            return {each["email"]: each for each in cloud.members.values()}
        case "service_account":
            return {each["name"]: each for each in cloud.service_accounts.values()}
        case "project":
            return {each["name"]: each for each in cloud.projects.values()}
        case "egress":
            return {each["to"]: each for each in _of(cloud.egress, "project_id", above)}
        case "permission":
            return {each["granted_to_email"]: each for each in _of(cloud.permissions, "project_id", above)}
        case "branch":
            return {each["name"]: each for each in _of(cloud.branches, "project_id", above)}
        case "role":
            return {name: row for (branch, name), row in cloud.roles.items() if branch == above["id"]}
        case "database":
            return {name: row for (branch, name), row in cloud.databases.items() if branch == above["id"]}
        case _:
            return _endpoints(cloud, kind, above)


def _of(rows: Mapping[str, Json], field: str, above: Json) -> list[Json]:
    return [each for each in rows.values() if each[field] == above["id"]]


def _endpoints(cloud: Cloud, kind: str, branch: Json) -> dict[str, Json]:
    """The one that writes, and those that read by their age."""
    found = _of(cloud.endpoints, "branch_id", branch)
    if kind == "compute":
        return {"compute": each for each in found if each["type"] == "read_write"}  # noqa: B035 - there is one
    readers = sorted((each for each in found if each["type"] == "read_only"), key=lambda each: each["created_at"])
    return {str(number): each for number, each in enumerate(readers, 1)}
