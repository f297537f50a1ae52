"""A value that must not reach a log, a repr or an exception message.

Showing it takes the word `reveal`, which can be searched for.
"""

import secrets
import string
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_ALPHANUMERIC: Final = string.ascii_letters + string.digits


class Secret(Generic[T]):
    """Wraps a secret. Equal to nothing, prints as nothing, pickles never."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def new_password() -> Secret[str]:
    """A role's password: `npg_` and 16 characters, each uniform among 62: 95 bits."""
    return Secret("npg_" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(16)))


def new_api_key() -> Secret[str]:
    """An API key: `napi_` and 64 characters, each uniform among 62: 381 bits."""
    return Secret("napi_" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(64)))
