"""A root key in several hands: shares of it by SLIP-0039 (Shamir's secret sharing, as words), for paper and safes.

So many of them give the key, fewer give nothing about it, and each tells by a checksum whether it was written down as it was.
`shamir_mnemonic` is the standard's reference implementation; its words are read by others as well. What must stay true: only what
was joined again from its shares is given out.

A share's words, and the key while it is split or joined, are Python's own objects, which cannot be wiped: this runs in a command of
root's that ends, never in the key broker.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import shamir_mnemonic
from shamir_mnemonic.utils import MnemonicError

from cloister.base.durable import write_durably
from cloister.base.errors import BadRequestError

PEOPLE_MAX: Final = 16
# The standard's own limit.
ENOUGH_MIN: Final = 2
# One share that is enough is the key.
WORDS_MAX: Final = 64
# A share of 32 bytes has 33.


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """`secrets/key-shares.json`: that there are shares, and of which key. Nothing of them."""

    root_version: str
    people: int
    enough: int
    made_at: float
    tried_at: float
    """When enough of them were last seen to give the key."""


def noted(path: Path) -> Made | None:
    """None: none were made, or what was noted of them cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Made)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def note(path: Path, made: Made) -> None:
    write_durably(path, msgspec.json.encode(made) + b"\n", mode=0o600)


def split(key: bytes, *, people: int, enough: int) -> list[str]:
    """A share for each of `people`; any `enough` of them are the key. Raises BadRequestError for numbers that cannot be."""
    if not ENOUGH_MIN <= enough <= people <= PEOPLE_MAX:
        raise BadRequestError(
            public=f"{enough} of {people}: at least {ENOUGH_MIN} are enough, and no more than there are, {PEOPLE_MAX} at most"
        )
    [shares] = shamir_mnemonic.generate_mnemonics(1, [(enough, people)], key)
    for some in (shares[:enough], shares[-enough:]):
        if join(some) != key:
            raise AssertionError("the shares do not give the key")
    return list(shares)


def needed(share: str) -> int:
    """How many like this one are enough. Raises BadRequestError for one that was not written down as it was."""
    return int(_read(share).member_threshold)


def join(shares: Sequence[str]) -> bytes:
    """The key. Raises BadRequestError, with what is wrong."""
    read = [_read(share) for share in shares]
    for one, other in itertools.pairwise(sorted(read, key=lambda share: share.index)):
        if one.index == other.index:
            raise BadRequestError(public="the same share was given twice")
    if read and len(read) < read[0].member_threshold:
        raise BadRequestError(public=f"{len(read)} shares of the {read[0].member_threshold} that are needed")
    try:
        # As many as are needed: the reference implementation takes no more.
        return bytes(shamir_mnemonic.combine_mnemonics([_tidy(it) for it in shares[: read[0].member_threshold]]))
    except (MnemonicError, IndexError) as error:
        raise BadRequestError(f"shares: {error}", public="these are not shares of one key") from None


def _read(share: str) -> shamir_mnemonic.Share:
    try:
        found = shamir_mnemonic.Share.from_mnemonic(_tidy(share))
    except (MnemonicError, ValueError, LookupError, ArithmeticError):
        raise BadRequestError(
            public="this is not a share: a word is missing, or is not the one that was given out"
        ) from None
    if (found.group_threshold, found.group_count) != (1, 1):
        raise BadRequestError(public="this is a share of another kind: `cloister keys shares make` makes no groups")
    return found


def _tidy(share: str) -> str:
    """One space between words, however it was typed."""
    words = share.lower().split()
    if len(words) > WORDS_MAX:
        raise BadRequestError(public=f"{len(words)} words: a share has 33")
    return " ".join(words)
