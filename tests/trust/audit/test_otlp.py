"""What a collector answers, whatever it answers."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import UnavailableError
from cloister.trust.audit.otlp import refuse_partial


@pytest.mark.parametrize("number", [1, "1", 2**63 - 1])
def test_one_that_took_less_than_all_has_taken_nothing(number: object) -> None:
    with pytest.raises(UnavailableError, match="rejected"):
        refuse_partial(json.dumps({"partialSuccess": {"rejectedLogRecords": number}}).encode())


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"partialSuccess":{"errorMessage":"slow down"}}', b'{"partialSuccess":null}']
)
def test_one_that_took_all_has(answer: bytes) -> None:
    refuse_partial(answer)


@given(
    st.binary()
    | st.dictionaries(st.text(), st.integers() | st.text()).map(lambda it: json.dumps({"partialSuccess": it}).encode())
)
def test_no_answer_is_an_error_of_ours(answer: bytes) -> None:
    with contextlib.suppress(UnavailableError):
        refuse_partial(answer)
