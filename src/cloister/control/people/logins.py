"""A person's login, from the first request to a session.

A session is an API key of the person's that ends by itself, so whatever holds for keys holds for it: it is kept as a digest,
it can be revoked, and it makes no further keys. What stays with others: what an ID token is worth (`protocol/openid`), what an
issuer may be asked (`trust/fetching`), what groups give (`roles.py`).
"""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ForbiddenError, UnavailableError
from cloister.base.ids import OrgId
from cloister.base.secret import Secret, new_api_key
from cloister.control.calling import Caller
from cloister.control.organizations import store as organizations
from cloister.control.organizations.model import is_address
from cloister.control.people import roles, store
from cloister.control.people.asking import IssuerError, Issuers
from cloister.control.people.model import Begin, Begun, Finish, Issuer, LoggedIn, Pending
from cloister.control.people.sealing import LoginKeys
from cloister.control.scim import store as scim
from cloister.protocol.openid import (
    Identity,
    IdentityError,
    Metadata,
    authorization_url,
    challenge_of,
    groups_of,
    identify,
    is_challenge,
)
from cloister.trust.access.keys import NewKey, insert_key
from cloister.trust.audit import Action, Event, record

LOGIN_LASTS: Final = timedelta(minutes=10)
# To type a password, find the second factor, and be called away once.

_NOTHING: Final = "no group of yours opens anything here"

_OVER: Final = "this login was not begun here, or is over: begin again"

_NOT_THERE: Final = "your organization's directory says that you are not there any more"

PORT_MIN: Final = 1024
SCOPE: Final = "openid email profile"
STATE_BYTES: Final = 32
TEXT_MAX: Final = 4_096
# Of a state, a secret or a code. Some issuers' codes are tokens.


class LoginRefusedError(ForbiddenError):
    """For the audit log: `why`, a stable word; `actor`, whose account it is, where that is known; `subject`, whom the issuer
    named, where it named anybody."""

    def __init__(self, why: str, detail: str, *, public: str | None = None, actor: str = "", subject: str = "") -> None:
        super().__init__(detail, public=public or "you cannot log in here")
        self.why = why
        self.actor = actor
        self.subject = subject


class LoginService:
    def __init__(self, database: Database, issuers: Issuers, keys: LoginKeys, clock: Clock) -> None:
        self._database = database
        self._issuers = issuers
        self._keys = keys
        self._clock = clock

    async def begin(self, begin: Begin, *, links: int | None = None) -> Begun:
        """`links`: the key whose account is to have the identity from then on; without it, to log in. Raises BadRequestError,
        UnprocessableError for an issuer that is not registered, UnavailableError."""
        if not PORT_MIN <= begin.port <= 65_535 or not is_challenge(begin.challenge):
            raise BadRequestError(
                public="a login begins with a port from 1024 and the SHA-256 of a secret, in base64url"
            )
        now = self._clock.now()
        async with self._database.reading() as tx:
            issuer = await store.named(tx, begin.issuer)
        try:
            metadata = await self._issuers.metadata(issuer.url)
        except IssuerError as error:
            raise UnavailableError(f"{issuer.name}: {error}", public=f"{issuer.name}: {error}") from None
        state = secrets.token_urlsafe(STATE_BYTES)
        # The loopback interface and nothing else, as RFC 8252 §7.3 has it; the path says which issuer sends the browser there,
        # so that one cannot pass its answer off as another's (RFC 9700 §4.4).
        redirect_uri = f"http://127.0.0.1:{begin.port}/login/{issuer.name}"
        expires_at = now + LOGIN_LASTS
        async with self._database.transaction() as tx:
            await store.sweep(tx, now)
            await store.begin(
                tx,
                state,
                challenge=begin.challenge,
                issuer_id=issuer.id,
                redirect_uri=redirect_uri,
                key_id=links,
                expires_at=expires_at,
            )
        url = authorization_url(
            metadata,
            client_id=issuer.client_id,
            redirect_uri=redirect_uri,
            scope=SCOPE,
            state=state,
            nonce=self._keys.nonce(state),
            challenge=challenge_of(self._keys.verifier(state)),
        )
        return Begun(issuer=issuer.name, url=url, redirect_uri=redirect_uri, state=Secret(state), expires_at=expires_at)

    async def finish(self, caller: Caller, finish: Finish) -> LoggedIn:
        """Raises LoginRefusedError, in words that say what whoever sits there can do about it.

        1. The login, by its state, and only for the client that began it: it is over from here on, whatever comes of it.
        2. The answer is of the issuer that was asked, if it says whose it is; if the issuer always says so, it must.
        3. What the code stands for, from the issuer itself, over TLS, with the PKCE verifier.
        4. The ID token, held to the keys that the issuer publishes at this moment, to our client's id and to the nonce.
        5. The groups. An issuer that says nothing about them has not said that there are none.
        6. In one transaction: whose account it is, that it is not disabled, what directories say of them, what the groups give and what they gave before and
           do not any more, the session, and the events.
        """
        # 1. The login.
        now = self._clock.now()
        if max(map(len, (finish.state, finish.secret, finish.code))) > TEXT_MAX:
            raise LoginRefusedError("login_unknown", "the login is too long")
        async with self._database.transaction() as tx:
            pending = await store.take(tx, finish.state, _challenge(finish.secret), now)
        if pending is None:
            raise LoginRefusedError("login_unknown", "no such login", public=_OVER)
        issuer = pending.issuer
        try:
            # 2. The issuer.
            _refuse_anothers(finish.issuer, await self._issuers.metadata(issuer.url))
            # 3. The code.
            secret = None if issuer.client_secret is None else self._keys.open(issuer.id, issuer.client_secret)
            answer = await self._issuers.exchange(
                issuer,
                secret,
                code=finish.code,
                verifier=self._keys.verifier(finish.state),
                redirect_uri=pending.redirect_uri,
            )
            # 4. The token.
            identity = identify(
                answer.id_token,
                await self._issuers.keys(issuer),
                issuer=issuer.url,
                client_id=issuer.client_id,
                nonce=self._keys.nonce(finish.state),
                access_token=answer.access_token,
                now=self._clock.now().timestamp(),
            )
            # 5. The groups.
            groups = groups_of(identity, issuer.groups_claim)
        except IssuerError as error:
            raise LoginRefusedError(
                "login_issuer", f"{issuer.name}: {error}", public=f"{issuer.name}: {error}"
            ) from None
        except IdentityError as error:
            public = f"{issuer.name} did not vouch for you: {error}"
            raise LoginRefusedError(
                error.why, f"{issuer.name}: {error}", public=public, subject=_named(issuer, error.subject)
            ) from None
        # 6. The session. What groups do not give any more is taken away, also of somebody who has nothing left to log in for.
        try:
            async with self._database.transaction() as tx:
                opened = await self._open(tx, caller, pending, identity, groups)
        except LoginRefusedError as error:
            error.subject = _named(issuer, identity.subject)
            raise
        if isinstance(opened, LoginRefusedError):
            opened.subject = _named(issuer, identity.subject)
            raise opened
        return opened

    async def _open(
        self, tx: Transaction, caller: Caller, pending: Pending, identity: Identity, groups: frozenset[str]
    ) -> LoggedIn | LoginRefusedError:
        """A refusal that is returned is one after which what was taken away stays so."""
        issuer, now = pending.issuer, self._clock.now()
        # What the issuer was asked took its time: what stands here of it, and of the key that links, is asked again.
        is_there = await store.hold(tx, issuer.id)
        if not is_there or (pending.key_id is not None and not await store.holds_key(tx, pending.key_id, now)):
            raise LoginRefusedError("login_unknown", "its issuer was removed, or its key revoked", public=_OVER)
        is_operator = issuer.operators is not None and issuer.operators in groups
        events: list[Event] = []

        account_id = await store.account_of(tx, issuer.id, identity.subject)
        if pending.account_id is not None:
            account_id = await self._link(tx, caller, pending, identity, account_id=account_id, events=events)
        gone, lacking = await self._meet(tx, issuer, identity, account_id)
        mapped = await store.mapped(tx, issuer.id)
        given = roles.given([it for it in mapped if it[1] not in gone and (it[1], it[0]) not in lacking], groups)
        if account_id is None:
            if not given and not is_operator:
                raise _nothing_left(gone, f"{identity.subject!r}: no group of theirs")
            account_id = await self._make_account(tx, caller, issuer, identity, events)
        account = await store.hold_account(tx, account_id)
        if account["disabled_at"] is not None:
            raise LoginRefusedError("account_disabled", f"{account_id} is disabled", actor=f"user:{account_id}")

        # Where a directory says that they are not there, nothing is changed: it holds again when they are.
        held = {org_id: it for org_id, it in (await store.held(tx, account_id)).items() if org_id not in gone}
        change = roles.changes(held, given, issuer.id)
        for org_id, role in change.add.items():
            events.append(_by_groups(Action.MEMBER_ADD, caller, issuer, org_id, account, role=role))
            await store.give(tx, org_id, account_id, role, issuer.id)
        for org_id, (was, role) in change.update.items():
            events.append(_by_groups(Action.MEMBER_UPDATE, caller, issuer, org_id, account, role=role, was=was))
            await store.give(tx, org_id, account_id, role, issuer.id)
        for org_id, was in change.remove.items():
            events.append(_by_groups(Action.MEMBER_REMOVE, caller, issuer, org_id, account, was=was))
            await organizations.remove_member(tx, org_id, account_id)
        # Directories' users are found by it, so it is kept only where it cannot be an address that somebody took for themselves.
        email = identity.email if _vouches(issuer, identity) else None
        was_operator = await store.logged_in(tx, issuer.id, account_id, now, is_operator=is_operator, email=email)
        await scim.link_all(tx, account_id, [*held, *given])
        by_hand = {org_id: it.role for org_id, it in held.items() if it.issuer_id is None}
        by_groups = {
            org_id: role for org_id, role in given.items() if org_id not in held or held[org_id].issuer_id == issuer.id
        }
        if not by_hand and not by_groups and not is_operator and not account["is_operator"]:
            await record(tx, *events)
            return _nothing_left(gone, f"{identity.subject!r}: nothing is left", actor=f"user:{account_id}")

        await store.end_sessions(tx, now, issuer_id=issuer.id, account_id=account_id)
        key, expires_at = new_api_key(), now + issuer.session
        new = NewKey(name=f"login at {issuer.name}", expires_at=expires_at)
        key_id = await insert_key(tx, account_id, new, key, now, issuer_id=issuer.id)
        details: dict[str, object] = {
            "issuer": issuer.name,
            "subject": identity.subject,
            "email": account["email"],
            "expires_at": expires_at.isoformat(timespec="seconds"),
            "operator": is_operator,
            "was_operator": was_operator,
        }
        events.append(_event(Action.SESSION_CREATE, caller, account_id, resource=f"api_key/{key_id}", details=details))
        await record(tx, *events)
        return LoggedIn(
            account_id=account_id,
            email=account["email"],
            name=account["name"],
            issuer=issuer.name,
            roles=by_hand | by_groups,
            is_operator=is_operator or account["is_operator"],
            key_id=key_id,
            key=key,
            expires_at=expires_at,
        )

    async def _meet(
        self, tx: Transaction, issuer: Issuer, identity: Identity, account_id: UUID | None
    ) -> tuple[frozenset[OrgId], frozenset[tuple[OrgId, str]]]:
        """What directories say of them (`control/scim`): it takes away from what their groups give, and adds nothing."""
        account = None if account_id is None else await store.hold_account(tx, account_id)
        addresses = [identity.email or "", "" if account is None else account["email"]]
        return await scim.meet(
            tx, account_id=account_id, issuer_id=issuer.id, subject=identity.subject, addresses=addresses
        )

    async def _link(
        self,
        tx: Transaction,
        caller: Caller,
        pending: Pending,
        identity: Identity,
        *,
        account_id: UUID | None,
        events: list[Event],
    ) -> UUID:
        """The account that asked for it has the identity from now on."""
        wanted = pending.account_id
        assert wanted is not None
        if account_id == wanted:
            return wanted
        if not await store.link(tx, pending.issuer.id, identity.subject, wanted, self._clock.now()):
            raise LoginRefusedError(
                "login_taken",
                f"{identity.subject!r} is {account_id}, or {wanted} is somebody else",
                public=f"this identity at {pending.issuer.name} is another account's, or your account has another one there",
                actor=f"user:{wanted}",
            )
        details = {"issuer": pending.issuer.name, "subject": identity.subject}
        events.append(_event(Action.IDENTITY_LINK, caller, wanted, resource=str(wanted), details=details))
        return wanted

    async def _make_account(
        self, tx: Transaction, caller: Caller, issuer: Issuer, identity: Identity, events: list[Event]
    ) -> UUID:
        """Of somebody who is here for the first time. An address is never enough to become who has it here already."""
        email = _address(issuer, identity)
        made = await organizations.add_account(tx, uuid4(), email, identity.name or email)
        if made is None:
            raise LoginRefusedError(
                "login_taken",
                f"{identity.subject!r} comes with the address of an account, {email!r}",
                public=f"{email} is an account here already: whoever holds it links it, with a key of theirs, by "
                "`cloister login --link`",
            )
        if not await store.link(tx, issuer.id, identity.subject, made.id, self._clock.now()):
            raise LoginRefusedError(
                "login_taken", f"{identity.subject!r} has just been linked"
            )  # by another login of theirs
        details = {"email": email, "issuer": issuer.name, "subject": identity.subject}
        events.append(_event(Action.ACCOUNT_CREATE, caller, made.id, resource=str(made.id), details=details))
        return made.id


def _address(issuer: Issuer, identity: Identity) -> str:
    """The address that others here will know them by. Raises LoginRefusedError for one that may be somebody else's: the issuer
    must have verified it, or it is of a domain for which the issuer speaks, and is not said to be unverified."""
    email = identity.email
    if email is None or not is_address(email):
        raise LoginRefusedError(
            "login_no_address", "the token has no address", public=f"{issuer.name} does not tell your e-mail address"
        )
    if not _vouches(issuer, identity):
        raise LoginRefusedError(
            "login_no_address",
            f"{email!r} is not verified by {issuer.name}",
            public=f"{issuer.name} has not verified {email}, or does not speak for its domain",
        )
    return email


def _vouches(issuer: Issuer, identity: Identity) -> bool:
    domain = (identity.email or "").rpartition("@")[2].lower()
    if issuer.domains:
        return identity.is_verified is not False and domain in issuer.domains
    return identity.is_verified is True


def _nothing_left(gone: frozenset[OrgId], detail: str, *, actor: str = "") -> LoginRefusedError:
    why = "login_deactivated" if gone else "login_no_role"
    return LoginRefusedError(why, detail, public=_NOT_THERE if gone else _NOTHING, actor=actor)


def _named(issuer: Issuer, subject: str) -> str:
    return f"{issuer.name}/{subject}" if subject else ""


def _refuse_anothers(said: str | None, metadata: Metadata) -> None:
    """RFC 9207: an answer that one issuer made out to be of another (its `iss`) is not followed to either."""
    if said is None and not metadata.authorization_response_iss_parameter_supported:
        return
    if said != metadata.issuer:
        raise IdentityError("login_other_issuer", f"the answer is of {(said or 'nobody')[:200]!r}")


def _challenge(secret: str) -> str:
    return challenge_of(secret) if secret.isascii() else ""


def _event(
    action: Action,
    caller: Caller,
    account_id: UUID,
    *,
    org_id: OrgId | None = None,
    resource: str,
    details: Mapping[str, object],
) -> Event:
    """Who asks is nobody until the login is finished: it is theirs."""
    return Event(
        action=action,
        actor=f"user:{account_id}",
        org_id=org_id or "",
        resource=resource,
        address=caller.address,
        request_id=caller.request_id,
        details=dict(details),
    )


def _by_groups(action: Action, caller: Caller, issuer: Issuer, org_id: OrgId, account: Any, **details: object) -> Event:
    told = {"email": account["email"], "by_groups_of": issuer.name, **details}
    return _event(action, caller, account["id"], org_id=org_id, resource=str(account["id"]), details=told)
