"""C and Python come to the same number of bits, for the vectors and for whatever hypothesis thinks of."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.protocol.passwords import Policy, estimate_prepared
from guard import build
from tests.guard.conftest import Estimates

VECTORS = [json.loads(line) for line in (Path(build.HOME) / "vectors.jsonl").read_text().splitlines()]
POLICIES: tuple[Policy, ...] = ("strict", "neon")

PIECES = st.sampled_from(
    "password Password dragon qwerty 1qaz 2024 31.12.1999 123 cba aaa xX - ! é 日 😀 \udcff owner neondb P4ss 0wn3r zxc".split(
        " "
    )
)
PASSWORDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    st.text(st.characters(min_codepoint=1, max_codepoint=0x7E), max_size=120),
    st.lists(PIECES, max_size=8).map("".join),
)
CONTEXT = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=15), max_size=4)


def agree(c_estimate: Estimates, password: str, context: tuple[str, ...]) -> None:
    for policy in POLICIES:
        expected, found = estimate_prepared(password, context, policy), c_estimate(password, context, policy)
        assert found.bits == pytest.approx(expected.bits, abs=0.005)
        assert (found.characters, found.kinds) == (expected.characters, expected.kinds.value)
        assert found.is_enough == expected.is_enough
        if not expected.is_enough:
            assert found.why == expected.why


def test_there_are_hundreds_of_vectors_on_both_sides_of_the_line() -> None:
    assert len(VECTORS) > 350
    assert sum(vector["strict_accepts"] for vector in VECTORS) > 60
    assert sum(vector["neon_accepts"] != vector["strict_accepts"] for vector in VECTORS) > 60


@pytest.mark.parametrize("policy", POLICIES)
def test_python_and_c_give_every_vector_its_number(c_estimate: Estimates, policy: Policy) -> None:
    for vector in VECTORS:
        password, context = vector["password"], tuple(vector["context"])
        for found in (estimate_prepared(password, context, policy), c_estimate(password, context, policy)):
            assert found.bits == pytest.approx(vector[policy], abs=0.005), vector
            assert found.is_enough == vector[f"{policy}_accepts"], vector
            assert found.characters == vector["characters"], vector
            assert policy == "neon" or int(found.kinds) == vector["kinds"], vector


@given(PASSWORDS, CONTEXT)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_python_and_c_agree(c_estimate: Estimates, password: str, context: list[str]) -> None:
    agree(c_estimate, password, tuple(context))


@pytest.mark.parametrize("piece", ["a", "password", "aB3$", "é", "\udcff", "1qaz2wsx"])
def test_a_megabyte_is_no_work(c_estimate: Estimates, piece: str) -> None:
    password = piece * (1024 * 1024 // len(piece))
    began = time.monotonic()
    found: Any = c_estimate(password)
    assert time.monotonic() - began < 1, "with sanitizers; a hundredth of that without"
    assert not found.is_enough
    assert found.bits == pytest.approx(estimate_prepared(password).bits, abs=0.005)
