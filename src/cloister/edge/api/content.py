"""The content of a request: its size, its kind, its meaning.

Read late (after authentication) and with patience that ends: a stranger cannot make us hold a megabyte.
What must stay true: whatever the bytes, the outcome is a value of the wanted type or a BadRequestError that says where
the trouble is.
"""

import asyncio
import re
from collections.abc import Hashable
from datetime import timedelta
from functools import cache
from typing import Any, Final, TypeVar, cast

import msgspec
import msgspec.inspect
from starlette.requests import ClientDisconnect, Request

from cloister.base.errors import BadRequestError
from cloister.edge.api.errors import HttpError

T = TypeVar("T")

BODY_BYTES_MAX: Final = 1024 * 1024
# The largest honest body, a project's settings with a thousand IP rules, has 50 kB.

BODY_TIMEOUT_S: Final = 20.0
# A megabyte on the slowest honest line takes ten seconds.

SAID_AT_ONCE: Final = timedelta(seconds=1)
# A body that comes with its head is here in less. Over any other, whoever sends it may have lost their right to it.

HEAD_BYTES_MAX: Final = 16 * 1024
# A request line and its headers: Neon's tools send the key three times, which is 300 bytes.

_MESSAGE_CHARS_MAX: Final = 300
# A wrong value is quoted in the message that refuses it.

QUERY_BYTES_MAX: Final = 8 * 1024
# As for the head of a request: a cursor, a search text and some flags fit many times.


_PRODUCT: Final = re.compile(r"[A-Za-z0-9._-]{1,40}/[A-Za-z0-9._-]{1,20}(?![^ ])")
# `cloister-mcp/0.1.0`, the first word of a User-Agent; what does not look like it is left out.


def client(request: Request) -> str:
    """The program that calls, as it calls itself; empty if it does not, or in a form that is none."""
    match = _PRODUCT.match(request.headers.get("user-agent", ""))
    return match[0] if match else ""


def check_declared(request: Request, kinds: frozenset[str] = frozenset({"application/json"})) -> None:
    """Refuse by the headers alone; `kinds`: of a body. Raises HttpError 413, 415, 431 or BadRequestError."""
    if request.scope["http_version"] not in ("1.0", "1.1"):
        raise BadRequestError(public="this server speaks HTTP/1.1")
    if sum(len(name) + len(value) for name, value in request.scope["headers"]) > HEAD_BYTES_MAX:
        raise HttpError(431, f"the headers are longer than {HEAD_BYTES_MAX} bytes")
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit():
        raise BadRequestError(public="invalid Content-Length")
    if len(declared) > 15 or int(declared) > BODY_BYTES_MAX:
        raise _too_large()
    if len(request.scope["query_string"]) > QUERY_BYTES_MAX:
        raise BadRequestError(public=f"the query is longer than {QUERY_BYTES_MAX} bytes")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(415, "compressed bodies are not accepted")
    has_body = declared.strip("0") != "" or "transfer-encoding" in request.headers
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and kind not in kinds:
        # A form of another site's page cannot send this type without asking first (CORS), and we never say yes.
        raise HttpError(415, f"the body must be {' or '.join(sorted(kinds))}")


async def read(request: Request) -> bytes:
    """The whole body, of at most BODY_BYTES_MAX bytes, within BODY_TIMEOUT_S."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise BadRequestError(public=f"the body did not arrive within {BODY_TIMEOUT_S:.0f} seconds") from None
    except ClientDisconnect:
        raise BadRequestError(public="the client left") from None
    return bytes(body)


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises BadRequestError with the byte of a syntax error or the path of a wrong field. Unknown fields are ignored,
    as Neon does, so that newer clients work. No body is as good as `{}` where that would do: where all may be left out."""
    if not body:
        try:
            return decoder.decode(b"{}")
        except msgspec.ValidationError:
            raise BadRequestError(public="invalid request: the body is empty") from None
    try:
        value = decoder.decode(body)
        _refuse_untellable(body, value)
    except msgspec.ValidationError as error:
        raise BadRequestError(public=f"invalid request: {_where(error)}") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(public=f"invalid request: decode application/json: {error}") from None
    except UnicodeError:
        raise BadRequestError(public="invalid request: decode application/json: not UTF-8 text") from None
    except RecursionError:
        raise BadRequestError(public="invalid request: nested too deeply") from None
    return value


def decode_query(query: list[tuple[str, str]], wanted: type[T]) -> T:
    """A query's parameters as a struct; the last of two with one name counts, but where the struct has a list: then all do,
    and each may be several with commas between them. Raises BadRequestError."""
    if any("\0" in value for _, value in query):
        raise BadRequestError(public="invalid request: U+0000 is not allowed in text")
    parameters: dict[str, str | list[str]] = {name: value for name, value in query if value != ""}
    for name in _lists_of(cast("Hashable", wanted)) & parameters.keys():
        parameters[name] = [it for key, value in query if key == name for it in value.split(",") if it]
    try:
        return msgspec.convert(parameters, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequestError(public=f"invalid query: {_where(error)}") from None


@cache
def _lists_of(wanted: Hashable) -> frozenset[str]:
    """The parameters of a query that are lists."""
    fields = msgspec.inspect.type_info(wanted).fields  # type: ignore[attr-defined]
    return frozenset(it.encode_name for it in fields if _is_list(it.type))


def _is_list(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(_is_list(it) for it in kind.types)
    return isinstance(kind, msgspec.inspect.ListType)


def _refuse_untellable(body: bytes, value: object) -> None:
    """PostgreSQL can store neither U+0000 nor a lone surrogate, so no text of ours may hold one."""
    if b"\\u" not in body and b"\\U" not in body:
        return  # without an escape, JSON cannot say either of them
    text = msgspec.json.encode(value)  # UnicodeError for a surrogate
    if b"\\u0000" in text and _has_nul(msgspec.json.decode(text)):
        raise BadRequestError(public="invalid request: U+0000 is not allowed in text")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_has_nul(inner) for inner in value)


def _where(error: msgspec.ValidationError) -> str:
    text = str(error).replace(" - at `$.", " - at `").replace(" - at `$`", "")
    return text if len(text) <= _MESSAGE_CHARS_MAX else text[:_MESSAGE_CHARS_MAX] + "…"


def _too_large() -> HttpError:
    # The connection stays open and what still comes is thrown away (for as long as server.py's patience lasts):
    # closing it at once would reset it, and the client would not see why.
    return HttpError(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
