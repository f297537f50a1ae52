"""A tenant stores a verifier that would take seconds to check, for strangers to ask for."""

from cloister.protocol.scram.verifier import ITERATIONS_CLEAR_MAX, ITERATIONS_MAX, Verifier

SALT = b"0123456789abcdef"


def test_a_password_in_clear_is_never_worth_more_work_than_the_limit(iterations_asked: list[int]) -> None:
    text = f"SCRAM-SHA-256${ITERATIONS_MAX}:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'A' * 43}="
    assert not Verifier.parse(text).matches_password("whatever")
    assert iterations_asked == [ITERATIONS_CLEAR_MAX]


def test_a_verifier_at_the_limit_still_matches_and_one_above_does_not() -> None:
    at, above = (
        Verifier.of_password("right", salt=SALT, iterations=iterations)
        for iterations in (ITERATIONS_CLEAR_MAX, ITERATIONS_CLEAR_MAX + 1)
    )
    assert at.matches_password("right")
    assert not above.matches_password("right")
