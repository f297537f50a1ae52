"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's side, as PostgreSQL speaks it.

Pure: nonces and salts are arguments. `verifier.py` is what is stored of a password, `server.py` the exchange,
`saslprep.py` how a password becomes bytes.
"""

from cloister.protocol.scram.server import PLAIN, PLUS, ScramError, ServerExchange
from cloister.protocol.scram.verifier import ITERATIONS_DEFAULT, ITERATIONS_MIN, InvalidVerifierError, Verifier

__all__ = [
    "ITERATIONS_DEFAULT",
    "ITERATIONS_MIN",
    "PLAIN",
    "PLUS",
    "InvalidVerifierError",
    "ScramError",
    "ServerExchange",
    "Verifier",
]
