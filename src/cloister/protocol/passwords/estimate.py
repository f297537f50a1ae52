"""The estimate: the cheapest way to put a password together from patterns and single characters.

Pure, and the same as guard/src/estimate.c to a hundredth of a bit. Only the first CHARACTERS_MAX characters are looked at,
so the work is bounded whatever somebody sends; what comes after them counts nothing.
"""

from dataclasses import dataclass
from math import log2
from typing import Final, Literal

from cloister.protocol.passwords.patterns import DIGITS, LETTERS, OTHERS, Finder, Kind
from cloister.protocol.passwords.words import folded
from cloister.protocol.scram.saslprep import normalised

Policy = Literal["strict", "neon"]
"""strict: patterns are worth what a guesser pays for them. neon: every character counts, for drop-in use."""

BITS_REQUIRED: Final = 60.0
CHARACTERS_REQUIRED: Final = 12
# By `strict` only.
CHARACTERS_MAX: Final = 100

SIGNS: Final = 33
SIGN_AGAIN_BITS: Final = 2.0
# The second dash between words says less than the first.
USES_MAX: Final = 2
# How often `neon` counts the same character.

_LEAST_GAIN: Final = 1e-9
# Two ways that cost the same are told apart by their order, not by the last bit of a logarithm.


@dataclass(frozen=True, slots=True)
class Estimate:
    bits: float
    characters: int
    kinds: Kind
    """What it was found to be made of, beside single characters."""
    policy: Policy

    @property
    def is_enough(self) -> bool:
        return self.bits >= BITS_REQUIRED and (self.policy == "neon" or self.characters >= CHARACTERS_REQUIRED)

    @property
    def why(self) -> str:
        """A clause for a message that refuses it. Holds nothing of the password."""
        reasons = [f"it contains {_listed(self.kinds.words)}"] if self.kinds else []
        if self.policy == "strict" and self.characters < CHARACTERS_REQUIRED:
            reasons.append(f"it has {self.characters} of at least {CHARACTERS_REQUIRED} characters")
        return "; ".join(reasons) or "it is too short for the characters it is made of"


def estimate(password: str, context: tuple[str, ...] = (), policy: Policy = "strict") -> Estimate:
    """`context`: names that a guesser knows, of the role and the database."""
    # What counts is what PBKDF2 is given: full-width letters are letters.
    return estimate_prepared(normalised(password).decode(), context, policy)


def estimate_prepared(password: str, context: tuple[str, ...] = (), policy: Policy = "strict") -> Estimate:
    """The same of a password that SASLprep has been at."""
    text = password[:CHARACTERS_MAX]
    if policy == "neon":
        return Estimate(_counted(text), len(password), Kind(0), policy)
    bits, kinds = _cheapest(text, context)
    return Estimate(bits, len(password), kinds, policy)


def _cheapest(text: str, context: tuple[str, ...]) -> tuple[float, Kind]:
    """Dynamic programming over places: the cheapest way to each, from those before."""
    if not text:
        return 0.0, Kind(0)
    each = log2(_alphabet(text))
    finder = Finder(text, context)
    cost = [0.0] + [float("inf")] * len(text)
    kinds = [Kind(0)] * (len(text) + 1)
    for start in range(len(text)):
        single = min(each, SIGN_AGAIN_BITS) if _is_sign(text[start]) and text[start] in text[:start] else each
        if cost[start] + single < cost[start + 1] - _LEAST_GAIN:
            cost[start + 1] = cost[start] + single
            kinds[start + 1] = kinds[start]
        for match in finder.at(start):
            if cost[start] + match.bits < cost[match.end] - _LEAST_GAIN:
                cost[match.end] = cost[start] + match.bits
                kinds[match.end] = kinds[start] | match.kind
    return cost[-1], kinds[-1]


def _counted(text: str) -> float:
    """Characters times what each could be; runs count as two characters, and none counts more than USES_MAX times."""
    lower, counted = folded(text), 0
    uses: dict[str, int] = {}
    for place, char in enumerate(text):
        if place >= 2:
            step = ord(lower[place]) - ord(lower[place - 1])
            if abs(step) <= 1 and step == ord(lower[place - 1]) - ord(lower[place - 2]):
                continue
        uses[char] = uses.get(char, 0) + 1
        counted += uses[char] <= USES_MAX
    return counted * log2(_alphabet(text)) if text else 0.0


def _alphabet(text: str) -> int:
    """How many characters there are of the classes that it uses."""
    size = 0
    size += LETTERS * any("a" <= char <= "z" for char in text)
    size += LETTERS * any("A" <= char <= "Z" for char in text)
    size += DIGITS * any("0" <= char <= "9" for char in text)
    size += SIGNS * any(map(_is_sign, text))
    size += OTHERS * any(char > "\x7f" for char in text)
    return size


def _is_sign(char: str) -> bool:
    return char <= "\x7f" and not ("a" <= char <= "z" or "A" <= char <= "Z" or "0" <= char <= "9")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
