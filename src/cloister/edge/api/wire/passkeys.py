"""Passkeys: in JSON as browsers write it (WebAuthn Level 3 §5.1: `toJSON()`), binary values in base64url without padding."""

from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from cloister.base.errors import BadRequestError
from cloister.control.passkeys.model import CHALLENGE_LASTS, NAME_CHARS_MAX, Challenge, Creation, Passkey
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment
from cloister.protocol import base64url
from cloister.protocol.webauthn import ALGORITHMS, ATTESTATION_BYTES_MAX, CLIENT_DATA_BYTES_MAX, Assertion, Registration

HEADER: Final = "cloister-assertion"
HEADER_CHARS_MAX: Final = 8 * 1024
# Half of what all headers may have. An assertion has some 800 characters.

_TIMEOUT_MS: Final = int(CHALLENGE_LASTS.total_seconds() * 1000)

Binary = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+$", max_length=2048)]
Long = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+$", max_length=ATTESTATION_BYTES_MAX * 4 // 3 + 4)]
ClientData = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+$", max_length=CLIENT_DATA_BYTES_MAX * 4 // 3 + 4)]


class PasskeyView(Wire, frozen=True, kw_only=True):
    id: UUID
    name: str
    created_at: Moment
    last_used_at: Moment | None = None


class PasskeyList(Wire, frozen=True, kw_only=True):
    passkeys: list[PasskeyView]


class Descriptor(Wire, frozen=True, kw_only=True):
    id: str
    type: Literal["public-key"]


class Algorithm(Wire, frozen=True, kw_only=True):
    alg: int
    type: Literal["public-key"]


class Party(Wire, frozen=True, kw_only=True):
    id: str
    name: str


class User(Wire, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    display_name: str


class Selection(Wire, frozen=True, kw_only=True, rename="camel"):
    resident_key: str
    user_verification: str


class CreationOptions(Wire, frozen=True, kw_only=True, rename="camel"):
    """PublicKeyCredentialCreationOptionsJSON."""

    rp: Party
    user: User
    challenge: str
    pub_key_cred_params: list[Algorithm]
    exclude_credentials: list[Descriptor]
    authenticator_selection: Selection
    attestation: str
    timeout: int


class RequestOptions(Wire, frozen=True, kw_only=True, rename="camel"):
    """PublicKeyCredentialRequestOptionsJSON."""

    challenge: str
    rp_id: str
    allow_credentials: list[Descriptor]
    user_verification: str
    timeout: int


class Ceremony(Wire, frozen=True, kw_only=True):
    """What the page shows, and what it asks the browser for: `create` or `get`."""

    act: str
    target: str
    address: str
    """From where it was asked for."""
    expires_at: Moment
    create: CreationOptions | None = None
    get: RequestOptions | None = None


class NameChallenge(Request, frozen=True, kw_only=True):
    challenge: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{43}$")]


class RegistrationResponse(Request, frozen=True, kw_only=True):
    client_data_json: ClientData = msgspec.field(name="clientDataJSON")
    attestation_object: Long = msgspec.field(name="attestationObject")


class RegistrationCredential(Request, frozen=True, kw_only=True):
    response: RegistrationResponse


class AddPasskey(Request, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
    credential: RegistrationCredential


class AssertionResponse(Request, frozen=True, kw_only=True):
    client_data_json: ClientData = msgspec.field(name="clientDataJSON")
    authenticator_data: Binary = msgspec.field(name="authenticatorData")
    signature: Binary


class AssertionCredential(Request, frozen=True, kw_only=True):
    """AuthenticationResponseJSON, as far as it is needed."""

    id: Binary
    response: AssertionResponse


class PasskeyPolicy(Request, frozen=True, kw_only=True):
    required: bool


class PasskeyPolicyAnswer(Wire, frozen=True, kw_only=True):
    required: bool


_DECODER: Final = msgspec.json.Decoder(AssertionCredential)


def view(it: Passkey) -> PasskeyView:
    return PasskeyView(
        id=it.id,
        name=it.name,
        created_at=moment(it.created_at),
        last_used_at=optional_moment(it.last_used_at),
    )


def ceremony(it: Challenge | Creation) -> Ceremony:
    if isinstance(it, Challenge):
        return Ceremony(
            act=it.act,
            target=it.target,
            address=it.address,
            expires_at=moment(it.expires_at),
            get=RequestOptions(
                challenge=base64url.encode(it.challenge),
                rp_id=it.rp_id,
                allow_credentials=_descriptors(it.passkeys),
                user_verification="required",
                timeout=_TIMEOUT_MS,
            ),
        )
    return Ceremony(
        act="register a passkey",
        target=it.email,
        address=it.address,
        expires_at=moment(it.expires_at),
        create=CreationOptions(
            rp=Party(id=it.rp_id, name="Cloister"),
            user=User(id=base64url.encode(it.account_id.bytes), name=it.email, display_name=it.name),
            challenge=base64url.encode(it.challenge),
            pub_key_cred_params=[Algorithm(alg=number, type="public-key") for number in ALGORITHMS],
            exclude_credentials=_descriptors(it.passkeys),
            authenticator_selection=Selection(resident_key="discouraged", user_verification="required"),
            attestation="none",
            timeout=_TIMEOUT_MS,
        ),
    )


def challenge(body: NameChallenge) -> bytes:
    return _bytes(body.challenge)


def registration(it: RegistrationCredential) -> Registration:
    return Registration(_bytes(it.response.client_data_json), _bytes(it.response.attestation_object))


def assertion(header: str) -> Assertion:
    """Raises BadRequestError."""
    if len(header) > HEADER_CHARS_MAX:
        raise BadRequestError(public=f"{HEADER} is longer than {HEADER_CHARS_MAX} characters")
    try:
        said = _DECODER.decode(_bytes(header))
    except (msgspec.DecodeError, UnicodeError):  # a ValidationError is a DecodeError
        raise BadRequestError(public=f"{HEADER} must be a WebAuthn assertion: JSON, in base64url") from None
    return Assertion(
        credential_id=_bytes(said.id),
        client_data=_bytes(said.response.client_data_json),
        authenticator_data=_bytes(said.response.authenticator_data),
        signature=_bytes(said.response.signature),
    )


def _descriptors(ids: tuple[bytes, ...]) -> list[Descriptor]:
    return [Descriptor(id=base64url.encode(it), type="public-key") for it in ids]


def _bytes(text: str) -> bytes:
    """Raises BadRequestError."""
    try:
        return base64url.decode(text)
    except ValueError:
        raise BadRequestError(public="a binary value must be base64url without padding") from None
