"""Terraform's questions and our answers, the same for every kind of thing.

A plan is made without asking the platform, from what was read before: (1) what nobody set and is not there yet is not known;
(2) what stays unset stays as it is; (3) another value of what cannot be changed is another thing. An apply (4) makes or changes,
(5) waits, (6) reads what came of it, and where something failed half-way, gives what is there beside the failure, so that
Terraform knows of it. What is there in another spelling than the configuration's is given in the configuration's.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cloister.base.errors import CloisterError
from cloister.base.versions import MOVED
from cloister.cli import target
from cloister.cli.api import ApiError
from cloister.cli.config.nouns import FormError
from cloister.cli.failure import CommandError
from cloister.cli.terraform import values
from cloister.cli.terraform.messages import CALLS, ERROR, WARNING
from cloister.cli.terraform.platform import Platform, change_digest
from cloister.cli.terraform.resource import Made, Resource, State, normal
from cloister.cli.terraform.resources import RESOURCES
from cloister.cli.terraform.schema import Attribute, Schema, Use
from cloister.cli.terraform.sources import EPHEMERAL, SOURCES, api_key, password, revoke_api_key
from cloister.cli.terraform.values import UNKNOWN, ValueFormError
from cloister.protocol.protobuf import Said, decode, encode

log = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

PROVIDER: Final = Schema(
    "Cloister, over its API. Whose changes they are says the environment: CLOISTER_API_KEY, which is no setting here, for a plan "
    "file keeps those.",
    (
        Attribute("api_host", use=Use.FREE, text=f"Default: {target.HOST_VARIABLE}."),
        Attribute("ca_file", use=Use.FREE, text=f"Default: {target.CA_VARIABLE}."),
        Attribute(
            "org_id", use=Use.FREE, text="Where new projects belong. Default: the key's organization, or the only one."
        ),
        Attribute(
            "commit", use=Use.FREE, text="The commit that the configuration is of: events in the audit log name it."
        ),
    ),
)

_CAPABILITIES: Final = {"plan_destroy": True, "get_provider_schema_optional": True}


class ComplaintError(Exception):
    """Something is wrong with one attribute, or with the whole."""

    def __init__(self, summary: str, detail: str = "", attribute: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.detail = detail
        self.attribute = attribute


class Provider:
    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, connect: Callable[..., Platform] = Platform
    ) -> None:
        self._environment = environment
        self._connect = connect
        self._platform: Platform | None = None
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        """Ids of projects that this configuration knows."""

    def answer(self, call: str, message: bytes) -> bytes:
        """Raises KeyError for what is no call of ours, ProtobufError."""
        request, response = CALLS[call]
        return encode(response, self._carried_out(call, decode(request, message)))

    def _carried_out(self, call: str, asked: Said) -> dict[str, Any]:
        try:
            return self._dispatch(call, asked)
        except (ComplaintError, CommandError, CloisterError, ValueFormError) as error:
            return {"diagnostics": [_diagnostic(error)]}

    def _dispatch(self, call: str, asked: Said) -> dict[str, Any]:
        type_name = asked.get("type_name", "")
        match call:
            case "GetMetadata":
                return _metadata()
            case "GetProviderSchema":
                return _schemas()
            case "ValidateProviderConfig":
                return {"diagnostics": _invalid(PROVIDER, values.decode(asked.get("config"), PROVIDER.types))}
            case "ConfigureProvider":
                self._configure(values.decode(asked.get("config"), PROVIDER.types) or {})
                return {}
            case "ValidateResourceConfig" | "ValidateDataResourceConfig" | "ValidateEphemeralResourceConfig":
                schema = _schema(call, type_name)
                return {"diagnostics": _invalid(schema, values.decode(asked.get("config"), schema.types))}
            case "UpgradeResourceState":
                schema = _resource(type_name).schema
                return {"upgraded_state": values.encode(values.decode(asked.get("raw_state"), schema.types))}
            case "ReadResource":
                return self._read(_resource(type_name), asked)
            case "PlanResourceChange":
                return self._plan(_resource(type_name), asked)
            case "ApplyResourceChange":
                return self._apply(type_name, _resource(type_name), asked)
            case "ImportResourceState":
                return {
                    "imported_resources": [{"type_name": type_name, "state": _imported(_resource(type_name), asked)}]
                }
            case "ReadDataSource":
                source = SOURCES[type_name]
                found = source.look(self.platform, values.decode(asked.get("config"), source.schema.types) or {})
                return {"state": values.encode(found)}
            case "OpenEphemeralResource":
                config = values.decode(asked.get("config"), EPHEMERAL[type_name].types) or {}
                if type_name == "cloister_role_password":
                    return {"result": values.encode(password(self.platform, config))}
                shown, opened = api_key(self.platform, config)
                return {"result": values.encode(shown), "private": opened.encode()}
            case "CloseEphemeralResource" if asked.get("private"):
                revoke_api_key(self.platform, asked["private"].decode())
                return {}
            case _:  # to close what leaves nothing behind, and to stop: what is under way is finished, as it would be on the platform
                return {}

    # ── which platform ──

    def _configure(self, config: State) -> None:
        for name, value in config.items():
            if not values.known(value):
                raise ComplaintError(f"{name} must be known when the plan is made", attribute=name)
        environment = dict(self._environment)
        for name, variable in (("api_host", target.HOST_VARIABLE), ("ca_file", target.CA_VARIABLE)):
            if config.get(name):
                environment[variable] = config[name]
        state_dir = environment.get("CLOISTER_STATE_DIR")
        found = target.find(environment, Path(state_dir) if state_dir else None)
        self._platform = self._connect(found, org_id=config.get("org_id") or "", commit=config.get("commit") or "")

    @property
    def platform(self) -> Platform:
        if self._platform is None:
            raise CommandError("Terraform has not said which platform is meant")
        return self._platform

    # ── what is there ──

    def _read(self, resource: Resource, asked: Said) -> dict[str, Any]:
        before = values.decode(asked.get("current_state"), resource.schema.types) or {}
        with self.platform.seeing({}) as versions:
            told = resource.read(self.platform, before)
        if told is None:
            return {"new_state": values.encode(None)}
        self._notice(resource, before)
        return {"new_state": values.encode(_kept(resource, before, told)), "private": _private(versions)}

    def _notice(self, resource: Resource, state: State) -> None:
        if resource.name == "project":
            with self._lock:
                self._seen.add(state["id"])

    # ── what is to be ──

    def _plan(self, resource: Resource, asked: Said) -> dict[str, Any]:
        types = resource.schema.types
        before = values.decode(asked.get("prior_state"), types)
        proposed = values.decode(asked.get("proposed_new_state"), types)
        config = values.decode(asked.get("config"), types) or {}
        if proposed is None:
            self._require_unprotected(resource, before or {})
            return {"planned_state": values.encode(None), "planned_private": asked.get("prior_private")}
        if before is None:
            resource.unknown_to(self.platform, proposed, self._seen)
            planned = {  # (1)
                each.name: UNKNOWN if each.is_computed and config.get(each.name) is None else proposed[each.name]
                for each in resource.schema.attributes
            }
            return {"planned_state": values.encode(planned)}
        self._notice(resource, before)
        planned, replaces = dict(proposed), []
        for each in resource.schema.attributes:
            if normal(each, before[each.name]) == normal(each, proposed[each.name]):
                if each.is_computed and config.get(each.name) is None:
                    planned[each.name] = before[each.name]  # (2)
                continue
            # (3) What an import could not learn is not another value.
            if each.replaces and not (before[each.name] is None and each.name in resource.said_once):
                replaces.append(_path(each.name))
        for each in resource.schema.attributes:
            if each.follows and config.get(each.name) is None and before[each.follows] != planned[each.follows]:
                planned[each.name] = UNKNOWN
        private = asked.get("prior_private")
        return {"planned_state": values.encode(planned), "requires_replace": replaces, "planned_private": private}

    def _require_unprotected(self, resource: Resource, before: State) -> None:
        """The platform refuses this as well, but only when what depends on it has been destroyed already."""
        if why := resource.is_protected(self.platform, before):
            raise ComplaintError(
                why, "What is protected is not destroyed: `protected = false` has to be applied first."
            )

    # ── what is done ──

    def _apply(self, type_name: str, resource: Resource, asked: Said) -> dict[str, Any]:
        types = resource.schema.types
        before = values.decode(asked.get("prior_state"), types)
        planned = values.decode(asked.get("planned_state"), types)
        project_id = (planned or before or {}).get("project_id") or (before or {}).get("id") or ""
        # (4) What was read for the plan is what is changed: the platform refuses if it moved since.
        seen = _versions(asked.get("planned_private"))
        with (
            self.platform.change(str(project_id), change_digest(type_name, before, planned)),
            self.platform.seeing(seen) as versions,
        ):
            if planned is None:
                return self._deleted(resource, before or {})
            done = self._created(resource, planned) if before is None else self._changed(resource, before, planned)
        return done | {"private": _private(versions)}

    def _created(self, resource: Resource, planned: State) -> dict[str, Any]:
        made = resource.create(self.platform, planned)
        self._notice(resource, made.identity)
        state = {each.name: None for each in resource.schema.attributes} | made.identity
        return self._arrived(resource, planned, state, lambda: self._settled(resource, planned, made))

    def _settled(self, resource: Resource, planned: State, made: Made) -> None:
        self.platform.finish({"operations": made.operations})
        now = resource.read(self.platform, made.identity)
        if now is None:
            raise CommandError("it was made and is gone again: make another plan")
        left = _differing(resource, now, planned)
        if fixed := [name for name in left if resource.attribute(name).replaces]:
            name = fixed[0]
            raise ComplaintError(f"what is there has another {name}: {now[name]!r}", attribute=name)
        if left:
            resource.change(self.platform, now, left)

    def _changed(self, resource: Resource, before: State, planned: State) -> dict[str, Any]:
        left = _differing(resource, before, planned)

        def change() -> None:
            if left:
                resource.change(self.platform, before, left)

        known = {**before, **{name: planned[name] for name in left if name in resource.identity}}
        return self._arrived(resource, planned, known, change, before=before)

    def _arrived(
        self, resource: Resource, planned: State, state: State, act: Callable[[], None], *, before: State | None = None
    ) -> dict[str, Any]:
        """(4) to (6). `before`: what it is known as where the act failed."""
        diagnostics = []
        try:
            act()
        except (ComplaintError, CommandError, CloisterError) as error:
            diagnostics.append(_diagnostic(error, resource.schema))
            state = before or state
        try:
            told = resource.read(self.platform, state)
        except (CommandError, CloisterError) as error:
            diagnostics.append(_diagnostic(error))
            told = {}
        if told is None:
            return {
                "new_state": values.encode(None),
                "diagnostics": diagnostics or [_diagnostic(CommandError("it is gone"))],
            }
        said = {name: value for name, value in planned.items() if value is not UNKNOWN}
        return {
            "new_state": values.encode(_kept(resource, {**state, **(said if not diagnostics else {})}, told)),
            "diagnostics": diagnostics,
        }

    def _deleted(self, resource: Resource, before: State) -> dict[str, Any]:
        if resource.stays or before.get("adopt"):
            text = f"{before.get('name') or before.get('id')} stays: it was taken over, not made"
            return {
                "new_state": values.encode(None),
                "diagnostics": [_diagnostic(CommandError(text), severity=WARNING)],
            }
        try:
            resource.delete(self.platform, before)
        except (CommandError, CloisterError) as error:
            if not (isinstance(error, ApiError) and self._is_gone(resource, before, error)):
                return {"new_state": values.encode(before), "diagnostics": [_diagnostic(error)]}
        return {"new_state": values.encode(None)}

    def _is_gone(self, resource: Resource, before: State, error: ApiError) -> bool:
        """What is gone is of no version, and what Terraform wanted is so."""
        if error.code != MOVED:
            return error.status == 404
        try:
            return resource.read(self.platform, before) is None
        except (CommandError, CloisterError):
            return False


def _private(versions: Mapping[str, str]) -> bytes:
    """What Terraform keeps beside a state and shows nobody: in which version it was read."""
    return json.dumps({"versions": versions}, sort_keys=True).encode()


def _versions(private: bytes | None) -> dict[str, str]:
    """None of a state that an older provider wrote."""
    try:
        said = json.loads(private or b"{}").get("versions", {})
    except (ValueError, AttributeError):
        return {}
    return {str(path): str(version) for path, version in said.items()} if isinstance(said, dict) else {}


def _differing(resource: Resource, now: State, planned: State) -> State:
    """What has to be changed for it to be as planned."""
    return {
        each.name: planned[each.name]
        for each in resource.schema.attributes
        if each.may_be_set
        and each.name not in resource.said_once
        and planned[each.name] not in (None, UNKNOWN)
        and normal(each, planned[each.name]) != normal(each, now[each.name])
    }


def _kept(resource: Resource, said: State, told: State) -> State:
    """What the API tells, in the words that were said where they mean the same; and what it does not tell, as it was said."""
    state = {}
    for each in resource.schema.attributes:
        if each.name not in told:
            state[each.name] = said.get(each.name)
        elif normal(each, said.get(each.name)) == normal(each, told[each.name]):
            state[each.name] = said[each.name]
        else:
            state[each.name] = told[each.name]
    return state


def _imported(resource: Resource, asked: Said) -> dict[str, bytes]:
    """The last word may have slashes of its own, as a role's name or a group's."""
    parts = str(asked.get("id", "")).split("/", len(resource.identity) - 1)
    if len(parts) != len(resource.identity) or not all(parts):
        raise ComplaintError(f"an import of this kind is of {'/'.join(name.upper() for name in resource.identity)}")
    state = dict.fromkeys(resource.schema.types) | dict(zip(resource.identity, parts, strict=True))
    return values.encode(state)


def _resource(type_name: str) -> Resource:
    if type_name not in RESOURCES:
        raise CommandError(f"there is no {type_name}")
    return RESOURCES[type_name]


def _schema(call: str, type_name: str) -> Schema:
    match call:
        case "ValidateResourceConfig":
            return _resource(type_name).schema
        case "ValidateDataResourceConfig":
            return SOURCES[type_name].schema
        case _:
            return EPHEMERAL[type_name]


def _invalid(schema: Schema, config: State | None) -> list[dict[str, Any]]:
    """What can be said of a configuration without the platform."""
    found = []
    for each in schema.attributes:
        value = (config or {}).get(each.name)
        if value is None or not values.known(value):
            continue
        try:
            if each.form is not None:
                each.form(value)
        except FormError as error:
            found.append(_diagnostic(ComplaintError(f"{each.name} must be {error}", attribute=each.name)))
    if schema is PROVIDER and (commit := (config or {}).get("commit")) and not _COMMIT.fullmatch(str(commit)):
        found.append(_diagnostic(ComplaintError("commit must be 40 or 64 hexadecimal digits", attribute="commit")))
    return found


def _metadata() -> dict[str, Any]:
    def named(names: Iterable[str]) -> list[dict[str, str]]:
        return [{"type_name": each} for each in names]

    return {
        "server_capabilities": _CAPABILITIES,
        "resources": named(RESOURCES),
        "data_sources": named(SOURCES),
        "ephemeral_resources": named(EPHEMERAL),
    }


def _schemas() -> dict[str, Any]:
    def named(schemas: Mapping[str, Schema]) -> list[dict[str, Any]]:
        return [{"key": name, "value": each.message()} for name, each in schemas.items()]

    return {
        "provider": PROVIDER.message(),
        "provider_meta": Schema("", ()).message(),
        "server_capabilities": _CAPABILITIES,
        "resource_schemas": named({name: each.schema for name, each in RESOURCES.items()}),
        "data_source_schemas": named({name: each.schema for name, each in SOURCES.items()}),
        "ephemeral_resource_schemas": named(EPHEMERAL),
    }


def _diagnostic(error: Exception, schema: Schema | None = None, *, severity: int = ERROR) -> dict[str, Any]:
    said: dict[str, Any] = {
        "severity": severity,
        "summary": error.public if isinstance(error, CloisterError) else str(error),
    }
    if isinstance(error, ComplaintError) and error.detail:
        said["detail"] = error.detail
    attribute = error.attribute if isinstance(error, ComplaintError) else _meant(schema, said["summary"])
    return said | ({"attribute": _path(attribute)} if attribute else {})


def _meant(schema: Schema | None, message: str) -> str:
    """The attribute that a refusal of the API's names, if it names one as we do."""
    names = [] if schema is None else [each.name for each in schema.attributes if each.may_be_set and "_" in each.name]
    return next((name for name in names if re.search(rf"\b{name}\b", message)), "")


def _path(attribute: str) -> dict[str, Any]:
    return {"steps": [{"attribute_name": attribute}]}
