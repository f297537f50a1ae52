"""Asks issuers: what they are, which keys they sign with now, and whom a code stands for.

An issuer's endpoints are remembered for a few minutes, so a stranger who begins logins causes one question and no more. Its
keys are asked for at every login that got as far as a token: nothing has to be told of a rotation, and a key that was
withdrawn a minute ago opens nothing. Where all this may lead is decided in `trust/fetching`.
"""

import asyncio
import base64
from typing import Final, Protocol
from urllib.parse import quote, urlencode

from cloister.base.clock import Clock
from cloister.base.secret import Secret
from cloister.control.people.model import Issuer
from cloister.protocol.openid import Metadata, MetadataError, TokenAnswer, metadata_url, read_answer, read_metadata
from cloister.protocol.tokens import KeySetError, VerifyingKey, read_key_set
from cloister.trust.fetching import FetchError

REMEMBERED_S: Final = 300.0
FAILURE_REMEMBERED_S: Final = 10.0

TENANT: Final = "logins"
# Whose share of the fetcher's turns it takes: no project's key sets can keep people out.


class Asks(Protocol):
    async def get(self, url: str, *, tenant: str) -> bytes:
        """Raises FetchError."""
        ...

    async def post_form(self, url: str, form: bytes, *, tenant: str, authorization: str | None = None) -> bytes:
        """Raises FetchError."""
        ...


class IssuerError(Exception):
    """It does not answer, or not as it must. The text is for people."""


class Issuers:
    def __init__(self, fetcher: Asks, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._known: dict[str, tuple[float, Metadata | IssuerError]] = {}
        self._asking = asyncio.Lock()

    async def metadata(self, url: str) -> Metadata:
        """Raises IssuerError."""
        if (known := self._remembered(url)) is None:
            async with self._asking:
                # Whoever waited for the lock finds what was asked meanwhile.
                if (known := self._remembered(url)) is None:
                    known = await self._ask(url)
        if isinstance(known, IssuerError):
            raise known
        return known

    def forget(self, url: str) -> None:
        self._known.pop(url, None)

    async def exchange(
        self, issuer: Issuer, secret: Secret[str] | None, *, code: str, verifier: str, redirect_uri: str
    ) -> TokenAnswer:
        """What a code stands for; it is worth nothing afterwards. Raises IssuerError."""
        metadata = await self.metadata(issuer.url)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        authorization = None
        if secret is None:
            form["client_id"] = issuer.client_id
        elif "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            authorization = _basic(issuer.client_id, secret)
        else:
            form |= {"client_id": issuer.client_id, "client_secret": secret.reveal()}
        try:
            answer = await self._fetcher.post_form(
                metadata.token_endpoint, urlencode(form).encode(), tenant=TENANT, authorization=authorization
            )
            return read_answer(answer)
        except (FetchError, MetadataError) as error:
            raise IssuerError(f"the issuer does not take the code: {error}") from None

    async def keys(self, issuer: Issuer) -> list[VerifyingKey]:
        """Those that it signs with now. Raises IssuerError."""
        metadata = await self.metadata(issuer.url)
        try:
            return read_key_set(await self._fetcher.get(metadata.jwks_uri, tenant=TENANT))
        except (FetchError, KeySetError) as error:
            raise IssuerError(f"the issuer's keys cannot be read: {error}") from None

    def _remembered(self, url: str) -> Metadata | IssuerError | None:
        until, known = self._known.get(url, (0.0, None))
        return known if self._clock.now().timestamp() < until else None

    async def _ask(self, url: str) -> Metadata | IssuerError:
        found: Metadata | IssuerError
        try:
            found = read_metadata(await self._fetcher.get(metadata_url(url), tenant=TENANT), url)
        except (FetchError, MetadataError) as error:
            found = IssuerError(f"the issuer cannot be used: {error}")
        lasts = FAILURE_REMEMBERED_S if isinstance(found, IssuerError) else REMEMBERED_S
        self._known[url] = (self._clock.now().timestamp() + lasts, found)
        return found


def _basic(client_id: str, secret: Secret[str]) -> str:
    """RFC 6749 §2.3.1: each is encoded as in a form first."""
    pair = f"{quote(client_id, safe='')}:{quote(secret.reveal(), safe='')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
