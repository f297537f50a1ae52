"""One offer is taken out of one message, and nothing else of a stream is touched."""

from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.hop import Hop, without_plus
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT,
    authentication_sasl,
    error_response,
    negotiate_protocol_version,
)

BOTH = authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
PLAIN = authentication_sasl(["SCRAM-SHA-256"])
BEFORE = negotiate_protocol_version(0, ["_pq_.x"]) + message(b"N", b"SNOTICE\0\0")


def through(stream: bytes, cuts: list[int]) -> bytes:
    hop, given_, last = Hop(), b"", 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        given_ += hop.feed(stream[last:cut])
        last = cut
    return given_ + hop.rest()


@given(st.lists(st.integers(min_value=0, max_value=400)), st.binary(max_size=40), st.booleans())
def test_the_offer_is_gone_however_the_stream_is_cut(cuts: list[int], after: bytes, has_before: bool) -> None:
    before = BEFORE if has_before else b""
    assert through(before + BOTH + after, cuts) == before + PLAIN + after


@given(st.lists(st.integers(min_value=0, max_value=400)), st.binary(max_size=200))
def test_only_the_first_request_is_looked_at(cuts: list[int], after: bytes) -> None:
    for first in (PLAIN, AUTHENTICATION_CLEARTEXT, error_response("28P01", "no")):
        assert through(first + BOTH + after, cuts) == first + BOTH + after


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0, max_value=400)))
def test_nothing_is_lost_or_held_back_at_the_end(stream: bytes, cuts: list[int]) -> None:
    assume_no_offer = stream.replace(b"SCRAM-SHA-256-PLUS", b"")
    assert through(assume_no_offer, cuts) == assume_no_offer


def test_a_server_that_insists_stays_as_it_is() -> None:
    only = authentication_sasl(["SCRAM-SHA-256-PLUS"])
    assert through(only, []) == only


@given(st.binary(max_size=100))
def test_a_body_that_is_no_list_is_left_alone(body: bytes) -> None:
    if not body.startswith(b"\0\0\0\x0a"):
        assert without_plus(body) == body
