"""A token in place of a password (`docs/adr/0020-tokens.md`).

The order is that of a password, and what a stranger may learn is the same: nothing. Before this, `Visit.verifier` has looked
up the route, the IP allowlist, the attempts on the endpoint and the failures of this role.

    (1) the token itself: a form, an algorithm, a type; told to everybody alike, for it is the same everywhere
    (2) the key sets of this endpoint's branch that may speak for this role. None, for an endpoint or a role that does not exist
        as for one without an issuer
    (3) the key that the token names, in one of them; a decoy where there is none. The signature, then the claims
    (4) keys that were not seen at their issuer for KEYS_FRESH_S are asked for again, and the token is held against what came:
        only now, for only its issuer made this token, and nobody else should be able to cause, or to feel, a question to it.
        A key that is not known yet is asked for too, but nobody waits for that
    (5) keys older than KEYS_USABLE_S open nothing, whoever vouched with them
    (6) the role may log in

Every refusal from (2) on is one and the same to the client. The claims go into the startup packet of a session that is
this token's alone, where the guard keeps them (`guard/src/claims.c`).
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from cloister.base.directory import KeySet
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.limits import ROUTES_MAX
from cloister.edge.gateway.visit import Visit, Voucher
from cloister.edge.sql.limits import KEYS_FRESH_S, KEYS_USABLE_S
from cloister.protocol.tokens import Claims, Token, TokenError, VerifyingKey, read_token, verify

log = logging.getLogger(__name__)

CLAIMS_SETTING: Final = "request.jwt.claims"
# PostgREST's name.
FIXED_SETTING: Final = "guard.has_token"


@dataclass(frozen=True, slots=True)
class _Found:
    keys: KeySet
    claims: Claims


async def vouch(visit: Visit, text: str, directory: Directory) -> None:
    """Let the visit be who the token says, or raise RefusedError."""
    endpoint = visit.target.endpoint or ""
    try:
        token = read_token(text)  # (1)
    except TokenError as error:
        raise visit.failed_token(str(error), told=str(error)) from None
    known = await directory.keys(endpoint)  # (2)
    sets = _speaking_for(visit.user, known)
    try:
        found = _verified(token, sets)  # (3)
        if _age(found.keys) > KEYS_FRESH_S:  # (4)
            found = _verified(token, _speaking_for(visit.user, await directory.keys(endpoint, is_refresh=True)))
    except TokenError as error:
        if known and not any(key.kid == token.kid for keys in sets for key in _keys(keys.keys)):
            directory.refresh_keys(endpoint)
        raise visit.failed_token(str(error)) from None
    if _age(found.keys) > KEYS_USABLE_S:  # (5)
        raise visit.failed_token(f"the issuer of {found.keys.id} has not answered for {_age(found.keys):.0f} s")
    if visit.route is None or not visit.route.may_log_in:  # (6)
        raise visit.failed_token("the role cannot log in")
    claims = {CLAIMS_SETTING: found.claims.json, FIXED_SETTING: "on"}
    visit.vouched(Voucher(found.keys.id, found.claims.subject, claims))


def _speaking_for(role: str, sets: list[KeySet]) -> list[KeySet]:
    return [keys for keys in sets if role in keys.roles]


def _verified(token: Token, sets: list[KeySet]) -> _Found:
    """By the first set that verifies it; two issuers may call their keys by one name. Raises TokenError."""
    failure: TokenError | None = None
    for keys, key in _candidates(token, sets):
        try:
            claims = verify(token, key, audience=keys.audience, issuer=keys.issuer, now=time.time())
            return _Found(keys, claims)
        except TokenError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    verify(token, None, audience=None, issuer=None, now=time.time())  # raises, after its time
    raise AssertionError("a token was verified without a key")


def _candidates(token: Token, sets: list[KeySet]) -> Iterator[tuple[KeySet, VerifyingKey]]:
    return ((keys, key) for keys in sets for key in _keys(keys.keys) if key.kid == token.kid)


@lru_cache(ROUTES_MAX)
def _keys(text: str) -> list[VerifyingKey]:
    """A text stands for itself: what is read from it once is not read again."""
    return msgspec.json.decode(text, type=list[VerifyingKey])


def _age(keys: KeySet) -> float:
    return time.time() - keys.fetched_at
