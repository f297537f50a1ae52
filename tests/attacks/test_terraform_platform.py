"""Threat: a provider that is led to another platform, given another's key, or told to trust whoever answers, works all the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.terraform import plugin, values
from cloister.cli.terraform.messages import CALLS
from cloister.cli.terraform.provider import PROVIDER, Provider
from cloister.cli.terraform.sources import SOURCES
from cloister.protocol.protobuf import decode, encode
from tests.instance import Instance

pytestmark = pytest.mark.root

Ask = Callable[..., list[str]]


@pytest.fixture
def ask(platform: Instance) -> Ask:
    """What is wrong, when somebody looks up a project that is there."""
    made = platform.create_project("looked-up")

    def asked(*, of: dict[str, str] | None = None, **config: str) -> list[str]:
        environment = {
            "CLOISTER_API_HOST": f"https://localhost:{platform.https_port}",
            "CLOISTER_API_KEY": platform.paths.admin_key.read_text().strip(),
            "CLOISTER_CA_FILE": str(platform.paths.ca_file),
        } | (of or {})
        provider = Provider(environment)

        def call(name: str, **said: Any) -> list[str]:
            request, response = CALLS[name]
            answer = decode(response, provider.answer(name, encode(request, said)))
            return [each["summary"] for each in answer.get("diagnostics", [])]

        wrong = call("ConfigureProvider", config=values.encode(dict.fromkeys(PROVIDER.types) | config))
        types = SOURCES["cloister_project"].schema.types
        look = values.encode(dict.fromkeys(types) | {"id": made.project_id})
        if wrong:
            return wrong
        try:
            return call("ReadDataSource", type_name="cloister_project", config=look)
        finally:
            provider.platform.close()

    return asked


def test_with_the_right_ones_it_is_found(ask: Ask) -> None:
    assert ask() == []


def test_another_key_is_refused(ask: Ask) -> None:
    [why] = ask(of={"CLOISTER_API_KEY": "napi_" + "a" * 64})
    assert "not accepted" in why


def test_another_authority_is_refused(ask: Ask, tmp_path: Path) -> None:
    other = tmp_path / "ca.pem"
    other.write_bytes(plugin.own_certificate()[1])
    for wrong in (ask(ca_file=str(other)), ask(of={"CLOISTER_CA_FILE": ""})):
        assert "certificate" in wrong[0]


def test_a_connection_in_clear_is_refused(ask: Ask, platform: Instance) -> None:
    [why] = ask(api_host=f"http://localhost:{platform.https_port}")
    assert "may not cross a network in clear" in why


def test_no_setting_turns_verification_off() -> None:
    assert set(PROVIDER.types) == {"api_host", "ca_file", "org_id", "commit"}
