"""A user: what of one is kept, and what a PUT or a PATCH makes of it. Pure.

Kept is what people are told apart by, and whether they are active. The rest that directories send (telephone numbers, managers,
addresses, a password) is passed over, and never kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from cloister.protocol.scim.documents import (
    INVALID_VALUE,
    MUTABILITY,
    TOO_MANY,
    ScimError,
    optional_text_of,
    text_of,
    truth_of,
)
from cloister.protocol.scim.paths import Operation, Path, read_path

SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
EMAILS_MAX: Final = 8

_READ_ONLY: Final = frozenset({"id", "meta", "groups", "schemas"})
_TEXTS: Final = {"externalid": "external_id", "displayname": "display_name"}
_NAMES: Final = {"givenname": "given_name", "familyname": "family_name"}


@dataclass(frozen=True, slots=True)
class Email:
    value: str
    type: str | None = None
    is_primary: bool = False


@dataclass(frozen=True, slots=True)
class UserAttributes:
    user_name: str
    external_id: str | None = None
    display_name: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    emails: tuple[Email, ...] = ()
    is_active: bool = True

    @property
    def addresses(self) -> tuple[str, ...]:
        """By what an account of theirs may be known here, the likeliest first."""
        emails = sorted(self.emails, key=lambda it: not it.is_primary)
        return tuple(dict.fromkeys((self.user_name, *(it.value for it in emails))))

    @property
    def key(self) -> str:
        return self.user_name.casefold()

    @classmethod
    def read(cls, document: dict[str, Any], was: "UserAttributes | None" = None) -> "UserAttributes":
        """A POST's, or a PUT's over `was`. Whether they are active is changed by saying so, and by nothing that is left out: a
        PUT of an older picture of somebody must not bring them back. Raises ScimError."""
        if "username" not in document:
            raise ScimError(INVALID_VALUE, "userName is required")
        made = cls(
            user_name=text_of(document["username"], "userName"), is_active=True if was is None else was.is_active
        )
        return _all(made, document)

    def patched(self, operations: Iterable[Operation]) -> "UserAttributes":
        """Raises ScimError, and then nothing of it is to be done."""
        it = self
        for operation in operations:
            if operation.op == "remove":
                assert operation.path is not None
                it = _removed(it, operation.path, operation.value)
            elif operation.path is None:
                it = _all(it, operation.value, adds=operation.op == "add")
            else:
                it = _set(it, operation.path, operation.value, adds=operation.op == "add")
        return it


def _all(it: UserAttributes, document: dict[str, Any], *, adds: bool = False) -> UserAttributes:
    """Each attribute of an object. Entra ID's objects have paths for names, too: `name.givenName`."""
    for name, value in document.items():
        if name in _READ_ONLY or ":" in name:
            continue
        is_path = "." in name or "[" in name
        it = _set(it, read_path(name, SCHEMA) if is_path else Path(name), value, adds=adds)
    return it


def _set(it: UserAttributes, path: Path, value: Any, *, adds: bool) -> UserAttributes:
    name = path.name
    if name in _READ_ONLY:
        raise ScimError(MUTABILITY, f"{name} is not to be changed")
    if name == "emails":
        return replace(it, emails=_emails(it.emails, path, value, adds=adds))
    if name == "name":
        return _set_name(it, path, value)
    if path.sub is not None or path.where is not None:
        if name in ("username", "active", *_TEXTS):
            raise ScimError(INVALID_VALUE, f"{name} has no parts")
        return it
    if name == "username":
        return replace(it, user_name=text_of(value, "userName"))
    if name == "active":
        return replace(it, is_active=truth_of(value, "active"))
    if name in _TEXTS:
        return _with(it, _TEXTS[name], optional_text_of(value, name))
    return it


def _with(it: UserAttributes, field: str, value: str | None) -> UserAttributes:
    changed: dict[str, Any] = {field: value}
    return replace(it, **changed)


def _set_name(it: UserAttributes, path: Path, value: Any) -> UserAttributes:
    if path.sub is not None:
        known = _NAMES.get(path.sub)
        return it if known is None else _with(it, known, optional_text_of(value, path.sub))
    if value is None:
        return replace(it, given_name=None, family_name=None)
    if not isinstance(value, dict):
        raise ScimError(INVALID_VALUE, "name is an object")
    for key, known in _NAMES.items():
        if key in value:
            it = _with(it, known, optional_text_of(value[key], key))
    return it


def _emails(was: tuple[Email, ...], path: Path, value: Any, *, adds: bool) -> tuple[Email, ...]:
    if path.where is not None:
        if path.sub not in (None, "value"):
            return was  # which of them is called what is not worth a refusal
        text = text_of(value.get("value") if isinstance(value, dict) else value, "emails.value")
        found = tuple(replace(it, value=text) if _fits(it, path.where) else it for it in was)
        kind = path.where[1] if path.where[0] == "type" else None
        made = found if any(_fits(it, path.where) for it in was) else (*was, Email(text, kind))
        return _checked(made)
    if path.sub is not None:
        raise ScimError(INVALID_VALUE, "which of the emails?")
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > EMAILS_MAX:
        raise ScimError(TOO_MANY, f"a user has at most {EMAILS_MAX} emails")
    read = tuple(_email(one) for one in values)
    if not adds:
        return _checked(read)
    return _checked((*(it for it in was if it.value not in {one.value for one in read}), *read))


def _email(one: Any) -> Email:
    if isinstance(one, str):
        return Email(text_of(one, "emails.value"))
    if not isinstance(one, dict):
        raise ScimError(INVALID_VALUE, "an email is an object")
    return Email(
        text_of(one.get("value"), "emails.value"),
        optional_text_of(one.get("type"), "emails.type"),
        truth_of(one.get("primary") or False, "emails.primary"),
    )


def _checked(emails: tuple[Email, ...]) -> tuple[Email, ...]:
    if len(emails) > EMAILS_MAX:
        raise ScimError(TOO_MANY, f"a user has at most {EMAILS_MAX} emails")
    if sum(it.is_primary for it in emails) > 1:
        raise ScimError(INVALID_VALUE, "one of the emails is the primary one")
    return emails


def _fits(it: Email, where: tuple[str, str]) -> bool:
    name, value = where
    if name == "primary":
        return it.is_primary
    return value.lower() == ((it.value if name == "value" else it.type) or "").lower()


def _removed(it: UserAttributes, path: Path, value: Any) -> UserAttributes:
    name = path.name
    if name in _READ_ONLY or name in ("username", "active"):
        raise ScimError(MUTABILITY, f"{name} cannot be removed")
    if name == "emails":
        if path.where is not None:
            where = path.where
            return replace(it, emails=tuple(one for one in it.emails if not _fits(one, where)))
        if isinstance(value, list):
            gone = {_email(one).value for one in value}
            return replace(it, emails=tuple(one for one in it.emails if one.value not in gone))
        return replace(it, emails=())
    return _set(it, path, None, adds=False)
