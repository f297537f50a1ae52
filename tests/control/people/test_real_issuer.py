"""With an issuer of somebody else's (npm `oidc-provider`), over HTTPS: what we take for the protocol is what it takes for it."""

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest

from cloister.base.clock import SystemClock
from cloister.base.ipallow import AllowList
from cloister.base.secret import Secret
from cloister.control.people.asking import Issuers
from cloister.control.people.issuers import IssuerService
from cloister.control.people.logins import LoginRefusedError, LoginService
from cloister.control.people.model import Begin, Begun, Finish
from cloister.control.people.sealing import LoginKeys
from cloister.protocol.openid import challenge_of
from cloister.trust.fetching import Fetcher, Reach
from tests.browser_of import CLIENT_SECRET, RealIssuer, brought_by, real_issuer
from tests.control.people.company import CALLER, COMPANY, CONTROL_KEY, HERE, NOBODY, SECRET, Company

pytestmark = pytest.mark.root
# It needs nobody's rights, but it is a second process and takes seconds, as those tests do.


@pytest.fixture(scope="module")
def issuer() -> Iterator[RealIssuer]:
    with real_issuer() as running:
        yield running


async def test_a_login_from_the_first_request_to_the_session(company: Company, issuer: RealIssuer) -> None:
    """And with the same issuer, because it takes a second to start: a code that was used, one that is another login's, an issuer
    that does not know the client's secret, and somebody of whose groups nothing is said."""
    fetcher = Fetcher(Reach(AllowList.parse(["127.0.0.1"])), authority=issuer.authority, timeout_s=60)
    clock, keys = SystemClock(), LoginKeys(CONTROL_KEY)
    asked = Issuers(fetcher, clock)
    issuers, logins = (
        IssuerService(company.database, asked, keys, clock),
        LoginService(company.database, asked, keys, clock),
    )
    await issuers.remove(CALLER, company.registered.id)
    await issuers.add(CALLER, dataclasses.replace(COMPANY, url=issuer.url, client_secret=Secret(CLIENT_SECRET)))
    await company.map("dba", "editor")

    async def begin() -> Begun:
        return await logins.begin(Begin(issuer="company", port=40_000, challenge=challenge_of(SECRET)))

    async def answer(begun: Begun, name: str = "eve") -> dict[str, str]:
        target = await asyncio.to_thread(issuer.log_in, begun.url, name)
        assert target.startswith(begun.redirect_uri + "?")
        return brought_by(target)

    async def finish(brought: dict[str, str]) -> str:
        """Who it is, or why not."""
        finish = Finish(state=brought["state"], secret=SECRET, code=brought["code"], issuer=brought.get("iss"))
        try:
            logged_in = await logins.finish(NOBODY, finish)
        except LoginRefusedError as error:
            return error.why
        assert logged_in.roles == {HERE: "editor"}
        return logged_in.email

    first = await answer(await begin())
    assert first["iss"] == issuer.url
    assert await finish(first) == "eve@example.com"
    second = await answer(await begin())
    assert await finish({**second, "code": first["code"]}) == "login_issuer", "a code that was used"
    third, fourth = await answer(await begin()), await answer(await begin())
    assert await finish({**third, "code": fourth["code"]}) == "login_issuer", "a code of another login"
    assert await finish(await answer(await begin(), "dan")) == "login_no_groups"

    (registered,) = await issuers.find()
    await issuers.remove(CALLER, registered.id)
    await issuers.add(CALLER, dataclasses.replace(COMPANY, url=issuer.url, client_secret=Secret("guessed")))
    assert await finish(await answer(await begin())) == "login_issuer", "a client that cannot prove itself"
