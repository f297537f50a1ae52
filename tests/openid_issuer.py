"""An OpenID Connect issuer in the process: honest unless told otherwise, so that a test can tell it one lie at a time.

`tests/clients/issuer.mjs` is one of somebody else's, which cannot lie.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cloister.base.clock import Clock
from cloister.protocol.openid import challenge_of
from cloister.trust.fetching import FetchError
from tests.token_issuer import KEYS, document, public, token

URL = "https://login.example.com"
CLIENT_ID = "cloister"


@dataclass
class OpenIdIssuer:
    """Stands in for the fetcher: what is asked of `URL` is answered here."""

    clock: Clock
    claims: dict[str, Any] = field(
        default_factory=lambda: {
            "sub": "u-1",
            "email": "eve@example.com",
            "email_verified": True,
            "name": "Eve",
            "groups": ["dba"],
        }
    )
    """Of whoever logs in next."""
    metadata: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=lambda: ["RS256", "ES256", "EdDSA"])
    """The keys of its key set, which are called by their algorithm."""
    sign: Callable[[dict[str, Any]], str] = lambda claims: token("ES256", **claims)
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """By code: what the authorization request asked for."""
    _numbers: Iterator[int] = field(default_factory=count)

    def authorize(self, url: str) -> dict[str, str]:
        """Somebody logs in in their browser. What it brings back to the client."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{next(self._numbers)}"
        self.codes[code] = asked
        return {"state": asked["state"], "code": code, "iss": URL}

    async def get(self, url: str, *, tenant: str) -> bytes:
        self.asked.append(url)
        match url:
            case "https://login.example.com/.well-known/openid-configuration":
                return json.dumps(
                    {
                        "issuer": URL,
                        "authorization_endpoint": f"{URL}/auth",
                        "token_endpoint": f"{URL}/token",
                        "jwks_uri": f"{URL}/keys",
                        "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
                        "authorization_response_iss_parameter_supported": True,
                    }
                    | self.metadata
                ).encode()
            case "https://login.example.com/keys":
                return document(*(public(algorithm) for algorithm in self.published))
        raise FetchError("it answers with status 404, not 200")

    async def post_form(self, url: str, form: bytes, *, tenant: str, authorization: str | None = None) -> bytes:
        assert url == f"{URL}/token"
        said = {name: values[0] for name, values in parse_qs(form.decode(), strict_parsing=True).items()}
        self.forms.append(said)
        self.authorizations.append(authorization)
        asked = self.codes.pop(said["code"], None)  # a code is good once
        if (
            asked is None
            or asked["redirect_uri"] != said["redirect_uri"]
            or asked["code_challenge"] != challenge_of(said["code_verifier"])
        ):
            raise FetchError("it answers with status 400, not 200; redirects are not followed")
        now = int(self.clock.now().timestamp())
        claims = {"iss": URL, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]} | self.claims
        return json.dumps({"id_token": self.sign(claims), "access_token": "at", "token_type": "Bearer"}).encode()


def at_hash(access_token: str, algorithm: str = "ES256") -> str:
    digest = (hashlib.sha512 if algorithm == "EdDSA" else hashlib.sha256)(access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


__all__ = ["CLIENT_ID", "KEYS", "URL", "OpenIdIssuer", "at_hash"]
