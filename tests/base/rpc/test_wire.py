"""What is framed at one end is the same at the other."""

import msgspec
import pytest

from cloister.base.errors import BusyError, Kind
from cloister.base.limits import RPC_FRAME_BYTES_MAX
from cloister.base.rpc.wire import LENGTH, Failure, FrameTooLongError, Reply, Request, frame, frame_length


@pytest.mark.parametrize("answer", [None, 3, {"a": [1, 2]}])
def test_an_answer_comes_back(answer: object) -> None:
    reply = Reply(7, msgspec.Raw(msgspec.msgpack.encode(answer)))
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Reply)
    assert (back.id, back.failure) == (7, None)
    assert msgspec.msgpack.decode(back.body) == answer


def test_a_failure_comes_back_as_the_error_it_was() -> None:
    error = BusyError("two at once")
    error.code = "RUNNING_OPERATIONS"
    reply = msgspec.msgpack.decode(msgspec.msgpack.encode(Reply(1, failure=Failure.of(error))), type=Reply)
    assert reply.failure is not None
    back = reply.failure.error()
    assert (type(back), str(back), back.public, back.code) == (BusyError, "two at once", BusyError.public, error.code)
    assert back.kind is Kind.BUSY


def test_a_request_comes_back() -> None:
    request = Request(1, msgspec.Raw(msgspec.msgpack.encode({"type": "Ping"})))
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
    assert msgspec.msgpack.decode(back.body) == {"type": "Ping"}


def test_a_frame_has_a_limit_at_both_ends() -> None:
    with pytest.raises(FrameTooLongError):
        frame(bytes(RPC_FRAME_BYTES_MAX + 1))
    with pytest.raises(FrameTooLongError):
        frame_length(LENGTH.pack(RPC_FRAME_BYTES_MAX + 1))
    assert frame_length(frame(b"abc")[: LENGTH.size]) == 3
