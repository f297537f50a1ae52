"""Words that a guesser tries first: common passwords, words and names from words.txt, and those of the login at hand."""

import functools
from collections.abc import Iterable
from importlib import resources
from typing import Final

WORD_LENGTH_MIN: Final = 3
WORD_LENGTH_MAX: Final = 24
# Of the words in words.txt; those of the login may be longer.

RANK_SHARE: Final = 4
# words.txt is several lists merged: a word stands about four times further down than in a list of its own kind.

CONTEXT_WORDS_MAX: Final = 32
# Names of a role and of a database give a handful. What comes after is not looked for.


@functools.cache
def ranks() -> dict[str, int]:
    """Word → how many are tried before it and with it."""
    text = resources.files("cloister.protocol.passwords").joinpath("words.txt").read_text(encoding="ascii")
    words = (line for line in text.splitlines() if not line.startswith("#"))
    return {word: number // RANK_SHARE + 1 for number, word in enumerate(words)}


def context_words(names: Iterable[str]) -> list[str]:
    """The names themselves, and the parts between what is neither a letter nor a digit."""
    found: list[str] = []
    for name in names:
        lower = folded(name)
        parts = "".join(char if is_letter_or_digit(char) else " " for char in lower).split(" ")
        for word in (lower, *parts):
            if len(word) >= WORD_LENGTH_MIN and word not in found and len(found) < CONTEXT_WORDS_MAX:
                found.append(word)
    return found


def folded(text: str) -> str:
    """ASCII letters in lower case, and nothing else changed: what C can do alike."""
    return "".join(char.lower() if "A" <= char <= "Z" else char for char in text)


def is_letter_or_digit(char: str) -> bool:
    """Whatever is not ASCII counts as a letter."""
    return "a" <= char <= "z" or "A" <= char <= "Z" or "0" <= char <= "9" or char > "\x7f"
