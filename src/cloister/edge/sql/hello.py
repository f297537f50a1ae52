"""Which server name a ClientHello asks for, before anybody has answered it.

OpenSSL reads it, as it will read it again when the connection is served: two parsers could disagree about whose the
connection is. The handshake is stopped at the name, before any key is made.
"""

import ssl
from typing import Final

HELLO_BYTES_MAX: Final = 16_384 + 5
# One TLS record. A hello of a browser with post-quantum key shares has some 2 000.


class IncompleteHelloError(Exception):
    """There is more to come."""


class _Look(ssl.SSLObject):
    has_name: bool = False
    name: str | None = None


def _stop(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> int:
    assert isinstance(tls, _Look)
    tls.has_name = True
    tls.name = name
    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Look
    context.sni_callback = _stop
    return context


_LOOKING: Final = _context()


def server_name(received: bytes) -> str | None:
    """The name in lower case; None where there is none, or where this is no ClientHello that we would answer. Raises
    IncompleteHelloError."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    look = _LOOKING.wrap_bio(incoming, outgoing, server_side=True)
    assert isinstance(look, _Look)
    incoming.write(received)
    try:
        look.do_handshake()
    except ssl.SSLWantReadError:
        if len(received) < HELLO_BYTES_MAX:
            raise IncompleteHelloError from None
    except ssl.SSLError:
        pass  # stopped at the name, or not TLS: the API's server says what is wrong with it
    return look.name.lower().removesuffix(".") if look.name is not None else None
