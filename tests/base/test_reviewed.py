"""The reviewed change that a call says it belongs to: digits alone, and nothing that is not a digest gets into an event."""

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.base import reviewed
from cloister.base.errors import BadRequestError

PLAN, COMMIT = "0a" * 32, "1b" * 20


def test_a_plan_and_its_commit_are_told_apart() -> None:
    assert reviewed.details(reviewed.parse([])) == {}
    assert reviewed.details(reviewed.parse([f"plan={PLAN}"])) == {"plan": PLAN}
    for commit in (COMMIT, PLAN):
        both = reviewed.parse([f"plan={PLAN};commit={commit}"])
        assert reviewed.details(both) == {"plan": PLAN, "commit": commit}
        signed = reviewed.parse([f"plan={PLAN};commit={commit};signer={PLAN}"])
        assert reviewed.details(signed) == {"plan": PLAN, "commit": commit, "signer": PLAN}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.text(), st.from_regex(r"plan=[0-9a-fA-F]{62,66}(;commit=[0-9a-f]{38,66}(;signer=[0-9a-f]{63,65})?)?\n?")
    )
)
def test_any_text_is_digits_or_refused(text: str) -> None:
    """What the log would keep of it is what was sent, and hexadecimal."""
    with contextlib.suppress(BadRequestError):
        kept = reviewed.details(reviewed.parse([text]))
        assert ";".join(f"{name}={value}" for name, value in kept.items()) == text
        assert all(set(str(value)) <= set("0123456789abcdef") for value in kept.values())
    assert set(reviewed.details(text)) <= {"plan", "commit", "signer"}
