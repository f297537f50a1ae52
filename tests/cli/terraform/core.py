"""Terraform's part of the conversation, as its protocol describes it: what it proposes, and what it holds a provider to. The API
behind the provider is the one in memory."""

from collections.abc import Mapping
from typing import Any, cast

from cloister.cli.api import Api
from cloister.cli.terraform import values
from cloister.cli.terraform.messages import CALLS
from cloister.cli.terraform.platform import Platform
from cloister.cli.terraform.provider import PROVIDER, Provider
from cloister.cli.terraform.resources import RESOURCES
from cloister.cli.terraform.values import UNKNOWN
from cloister.protocol.protobuf import decode, encode
from tests.cli.config.cloud import Cloud

ENVIRONMENT = {"CLOISTER_API_HOST": "https://db.example", "CLOISTER_API_KEY": "napi_of_nobody"}


class RefusedError(Exception):
    """With the diagnostics."""

    def __init__(self, diagnostics: list[dict[str, Any]], state: dict[str, Any] | None = None) -> None:
        super().__init__("; ".join(each["summary"] for each in diagnostics))
        self.state = state
        self.attributes = [
            each["attribute"]["steps"][0]["attribute_name"] for each in diagnostics if "attribute" in each
        ]


class Core:
    """One run of Terraform, on one API."""

    def __init__(self, cloud: Cloud, **provider: str) -> None:
        self.warnings: list[str] = []
        self._kept: dict[tuple[str, ...], bytes] = {}
        """What the provider gave to be kept beside a state, and shown to nobody."""

        class InMemory(Platform):
            @property
            def api(self) -> Api:
                return cast("Api", cloud)

        self._provider = Provider(ENVIRONMENT, connect=InMemory)
        config = values.encode(dict.fromkeys(PROVIDER.types) | provider)
        for call in ("ValidateProviderConfig", "ConfigureProvider"):
            self.call(call, config=config)

    def call(self, name: str, **asked: Any) -> dict[str, Any]:
        request, response = CALLS[name]
        answer = decode(response, self._provider.answer(name, encode(request, asked)))
        diagnostics = answer.get("diagnostics", [])
        self.warnings += [each["summary"] for each in diagnostics if each["severity"] == 2]
        if errors := [each for each in diagnostics if each["severity"] == 1]:
            state = answer.get("new_state")
            raise RefusedError(
                errors, values.decode(state, RESOURCES[asked["type_name"]].schema.types) if state else None
            )
        return answer

    def plan(self, kind: str, state: dict[str, Any] | None, said: Mapping[str, Any]) -> "Plan":
        resource = RESOURCES[kind]
        config = dict.fromkeys(resource.schema.types) | dict(said)
        self.call("ValidateResourceConfig", type_name=kind, config=values.encode(config))
        proposed = {
            each.name: (state or {}).get(each.name)
            if each.is_computed and config[each.name] is None
            else config[each.name]
            for each in resource.schema.attributes
        }
        answer = self.call(
            "PlanResourceChange",
            type_name=kind,
            prior_state=values.encode(state),
            proposed_new_state=values.encode(proposed),
            config=values.encode(config),
            prior_private=self._kept.get(self._place(kind, state)),
        )
        planned = values.decode(answer["planned_state"], resource.schema.types)
        assert planned is not None
        for each in resource.schema.attributes:
            if config[each.name] is not None:
                assert planned[each.name] == config[each.name], each.name
            elif not each.is_computed:
                assert planned[each.name] is None, each.name
        replaces = [each["steps"][0]["attribute_name"] for each in answer.get("requires_replace", [])]
        return Plan(self, kind, state, planned, config, answer.get("planned_private"), replaces)

    def made(self, kind: str, **said: Any) -> dict[str, Any]:
        return self.plan(kind, None, said).applied()

    def changed(self, kind: str, state: dict[str, Any], **said: Any) -> dict[str, Any]:
        return self.plan(kind, self.read(kind, state), said).applied()

    def read(self, kind: str, state: dict[str, Any]) -> dict[str, Any] | None:
        answer = self.call("ReadResource", type_name=kind, current_state=values.encode(state))
        self.keep(kind, state, answer.get("private"))
        return values.decode(answer["new_state"], RESOURCES[kind].schema.types)

    def keep(self, kind: str, state: dict[str, Any], private: bytes | None) -> None:
        self._kept[self._place(kind, state)] = private or b""

    @staticmethod
    def _place(kind: str, state: dict[str, Any] | None) -> tuple[str, ...]:
        return (kind, *(str((state or {}).get(name)) for name in RESOURCES[kind].identity))

    def destroyed(self, kind: str, state: dict[str, Any], *, plans: bool = True) -> None:
        gone = values.encode(None)
        before = values.encode(state)
        if plans:
            self.call("PlanResourceChange", type_name=kind, prior_state=before, proposed_new_state=gone, config=gone)
        kept = self._kept.get(self._place(kind, state))
        self.call(
            "ApplyResourceChange",
            type_name=kind,
            prior_state=before,
            planned_state=gone,
            config=gone,
            planned_private=kept,
        )

    def imported(self, kind: str, words: str) -> dict[str, Any] | None:
        answer = self.call("ImportResourceState", type_name=kind, id=words)
        state = values.decode(answer["imported_resources"][0]["state"], RESOURCES[kind].schema.types)
        assert state is not None
        return self.read(kind, state)


class Plan:
    def __init__(  # noqa: PLR0917 - as they were answered
        self,
        core: Core,
        kind: str,
        before: dict[str, Any] | None,
        planned: dict[str, Any],
        config: dict[str, Any],
        private: bytes | None,
        replaces: list[str],
    ) -> None:
        self._core, self._kind, self._config, self._private = core, kind, config, private
        self.before, self.planned, self.replaces = before, planned, replaces

    @property
    def changes(self) -> dict[str, Any]:
        return {name: value for name, value in self.planned.items() if (self.before or {}).get(name) != value}

    def applied(self) -> dict[str, Any]:
        assert not self.replaces, self.replaces
        answer = self._core.call(
            "ApplyResourceChange",
            type_name=self._kind,
            prior_state=values.encode(self.before),
            planned_state=values.encode(self.planned),
            config=values.encode(self._config),
            planned_private=self._private,
        )
        state = values.decode(answer["new_state"], RESOURCES[self._kind].schema.types)
        assert state is not None
        assert values.known(state)
        self._core.keep(self._kind, state, answer.get("private"))
        for name, value in self.planned.items():
            if value is not UNKNOWN:
                assert state[name] == value, f"inconsistent result after apply: {name}"
        return state
