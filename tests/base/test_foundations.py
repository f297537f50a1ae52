"""Ids, names, secrets, errors, settings: the small types that everything else relies on."""

import dataclasses
import logging
import math
import pickle
import random
import re
import secrets
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base import errors, ids
from cloister.base.errors import BadRequestError, CloisterError, InvalidIdError, Kind, PreconditionError
from cloister.base.secret import Secret, new_api_key, new_password
from cloister.base.settings import LAYOUT_VERSION, Address, Paths, Settings, load, save

PARSERS = [
    (ids.new_project_id, ids.parse_project_id),
    (ids.new_branch_id, ids.parse_branch_id),
    (ids.new_endpoint_id, ids.parse_endpoint_id),
    (ids.new_org_id, ids.parse_org_id),
    (ids.new_operation_id, ids.parse_operation_id),
]


@pytest.mark.parametrize(("make", "parse"), PARSERS)
def test_an_id_of_ours_is_accepted_and_is_safe_everywhere(make: object, parse: object) -> None:
    assert callable(make)
    assert callable(parse)
    for _ in range(200):
        made = make()
        assert parse(made) == made
        assert re.fullmatch(r"[a-z0-9-]{1,60}", made), "a host name's label, a directory, a cgroup, Neon's pattern"


@pytest.mark.parametrize("parse", [parse for _, parse in PARSERS])
@pytest.mark.parametrize("around", ["../{}", "{}/x", "{}\n", " {}", "{}\0", "{}'", "-{}", "{}-", "{}é"])
def test_nothing_around_an_id_is_accepted(parse: object, around: str) -> None:
    assert callable(parse)
    made = next(make for make, known in PARSERS if known is parse)()
    for text in (around.format(made), made.upper(), ""):
        with pytest.raises(InvalidIdError):
            parse(text)


@given(st.text(max_size=70))
def test_a_tenants_name_is_taken_as_it_is_or_refused(name: str) -> None:
    try:
        assert ids.parse_identifier("role", name) == name
    except InvalidIdError:
        encoded = name.encode(errors="surrogatepass")
        assert not name or "\0" in name or len(encoded) > 63 or any("\ud800" <= c <= "\udfff" for c in name)
    else:
        assert 1 <= len(name.encode()) <= 63


def test_a_secret_shows_itself_to_nobody_who_does_not_ask(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter2")

    @dataclasses.dataclass
    class Holder:
        password: Secret[str]

    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r %s", secret, secret, Holder(secret))
    assert "hunter2" not in caplog.text + f"{secret} {secret!r} {Holder(secret)}"
    for serialise in (pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError):
            serialise(secret)
    assert secret != Secret("hunter2")
    assert secret.reveal() == "hunter2"


def test_generated_secrets_have_the_shape_that_clients_know_and_never_repeat() -> None:
    passwords = {new_password().reveal() for _ in range(500)}
    assert len(passwords) == 500
    assert all(re.fullmatch(r"npg_[A-Za-z0-9]{16}", password) for password in passwords)
    assert set("".join(password[4:] for password in passwords)) == set(string.ascii_letters + string.digits)
    assert re.fullmatch(r"napi_[A-Za-z0-9]{64}", new_api_key().reveal())


ALPHANUMERIC = string.ascii_letters + string.digits


@pytest.mark.parametrize(("new", "prefix", "bits"), [(new_password, "npg_", 95), (new_api_key, "napi_", 381)])
def test_each_character_of_a_secret_is_drawn_by_itself_among_all(
    monkeypatch: pytest.MonkeyPatch, new: Callable[[], Secret[str]], prefix: str, bits: int
) -> None:
    """By `secrets`, which asks the system; as many bits as are promised."""
    choice = secrets.choice
    drawn: list[tuple[str, str]] = []

    def seen(letters: str) -> str:
        drawn.append((letters, choice(letters)))
        return drawn[-1][1]

    monkeypatch.setattr(secrets, "choice", seen)
    assert new().reveal() == prefix + "".join(letter for _, letter in drawn)
    assert {letters for letters, _ in drawn} == {ALPHANUMERIC}
    assert math.floor(len(drawn) * math.log2(len(ALPHANUMERIC))) == bits


@pytest.mark.parametrize("new", [new_password, new_api_key])
def test_no_generator_that_can_be_started_again_has_a_part_in_a_secret(new: Callable[[], Secret[str]]) -> None:
    state = random.getstate()
    try:
        made = []
        for _ in range(2):
            random.seed(1)
            made.append(new().reveal())
    finally:
        random.setstate(state)
    assert made[0] != made[1]


def test_no_letter_of_a_password_is_likelier_than_another() -> None:
    """Pearson's test over 64 000 letters. With all 62 alike it is above 170 once in 3 * 10^11 runs. A byte modulo 62 favours
    eight of them by a quarter: that has 483 on average, and is not below 170 once in 10^11."""
    passwords = (new_password().reveal().removeprefix("npg_") for _ in range(4_000))
    counts = Counter("".join(passwords))
    expected = counts.total() / len(ALPHANUMERIC)
    assert sum((counts[letter] - expected) ** 2 for letter in ALPHANUMERIC) / expected < 170


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_survives_a_process_boundary(kind: Kind) -> None:
    error = errors.from_kind(kind, "for the log", "for them", "A_CODE")
    assert (error.kind, str(error), error.public, error.code) == (kind, "for the log", "for them", "A_CODE")
    assert error.may_retry is (kind in errors.RETRYABLE)


def test_an_error_says_in_public_only_what_it_was_given_for_that() -> None:
    assert CloisterError("/var/lib/cloister/secret").public == "internal error"
    assert str(PreconditionError(public="shown")) == "shown"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":5432", "", 5432),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:443", "::1", 443),
        ("db.example:0", "db.example", 0),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "5432", "host:", ":65536", ":-1", ":٣", "host:http", ":1 "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(repr(text))):
        Address.parse(text)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), domain="db.example.org", listen_postgres=Address("::1", 6000))
    save(settings)
    (tmp_path / "layout-version").write_text(f"{LAYOUT_VERSION}\n")
    assert load(tmp_path) == settings


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("layout-version", "999\n", "layout version '999'"),
        ("settings.json", '{"state_dir": "/x", "unknown": 1}', "unknown"),
        ("settings.json", '{"state_dir": 7}', "state_dir"),
        (None, "", "start one with `cloister up`"),
    ],
)
def test_a_state_directory_that_is_not_ours_is_refused(
    tmp_path: Path, name: str | None, content: str, complaint: str
) -> None:
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(PreconditionError) as refusal:
        load(tmp_path)
    assert complaint in refusal.value.public


@pytest.mark.parametrize("domain", ["", "A.example", "-a.example", "a..b", "a_b", "é.example", "x" * 64, "a.b\n"])
def test_a_domain_that_no_certificate_could_name_is_refused(domain: str) -> None:
    with pytest.raises(BadRequestError):
        Settings(state_dir="/x", domain=domain).validate()


def test_two_platforms_on_one_host_do_not_meet_and_their_sockets_fit(tmp_path: Path) -> None:
    one, two = Paths(tmp_path / "one"), Paths(tmp_path / "two")
    assert one.run != two.run
    longest = one.computes / ids.EndpointId("ep-" + "x" * 16 + "-" + "y" * 16 + "-12345678") / ".s.PGSQL.5432"
    assert len(bytes(longest)) < 108, "sun_path"
    (tmp_path / "alias").symlink_to(tmp_path / "one")
    assert Paths(tmp_path / "alias").run == one.run
