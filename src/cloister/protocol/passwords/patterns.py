"""What people make passwords of: each function finds one kind of pattern that starts at a place, with what it costs a
guesser, in bits.

A pattern's cost is that of saying which kind it is, and of choosing within its kind. Mirrors guard/src/estimate.c: whatever
is changed here is changed there, in the same order of floating-point operations.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from typing import Final

from cloister.protocol.passwords.words import WORD_LENGTH_MAX, WORD_LENGTH_MIN, context_words, folded, ranks


class Kind(enum.IntFlag):
    WORD = 1
    CONTEXT = 2
    REPEAT = 4
    SEQUENCE = 8
    KEYBOARD = 16
    DATE = 32

    @property
    def words(self) -> list[str]:
        """In the words of the server's error message, in its order."""
        return [_WORDS[kind] for kind in Kind if kind in self]


_WORDS: Final = {
    Kind.WORD: "a common word, name or password",
    Kind.CONTEXT: "the name of the role or database",
    Kind.REPEAT: "a repetition",
    Kind.SEQUENCE: "a sequence",
    Kind.KEYBOARD: "neighbouring keys",
    Kind.DATE: "a date or year",
}

PATTERN_BITS: Final = 2.0
# There are six kinds, of which words are most of all.

LETTERS: Final = 26
DIGITS: Final = 10
OTHERS: Final = 96
# Characters beyond ASCII: as many as a script of one language has, not the 150 000 of Unicode.

REVERSED_BITS: Final = 1.0
REVERSED_LENGTH_MIN: Final = 4
COPY_LENGTH_MIN: Final = 3
COPY_CASE_BITS: Final = 2.0
MIRROR_LENGTH_MIN: Final = 4
RUN_LENGTH_MIN: Final = 3
STEP_MAX: Final = 5
DOWN_BITS: Final = 1.0
STRIDE_BITS: Final = 3.0
KEYS: Final = 47
TURN_BITS: Final = 2.5
TURNED_LENGTH_MIN: Final = 4
YEARS: Final = 200
DAYS: Final = 366
SEPARATOR_BITS: Final = 2.0
YEAR_MIN, YEAR_MAX = 1900, 2099

_LEET: Final = {"4": "a", "@": "a", "8": "b", "(": "c", "3": "e", "6": "g", "9": "g", "1": "i", "!": "i", "|": "l"} | {
    "0": "o",
    "$": "s",
    "5": "s",
    "7": "t",
    "+": "t",
    "2": "z",
}
_LEET_OTHER: Final = _LEET | {"1": "l"}

_ROWS: Final = ("`1234567890-=", " qwertyuiop[]\\", " asdfghjkl;'", " zxcvbnm,./")
_SHIFTED: Final = ("~!@#$%^&*()_+", " QWERTYUIOP{}|", ' ASDFGHJKL:"', " ZXCVBNM<>?")
_NEIGHBOURS: Final = frozenset({(-1, 0), (0, -1), (1, -1), (1, 0), (0, 1), (-1, 1)})
# Each row of keys stands half a key to the right of the one above.
_PLACES: Final = {
    char: (x, y, is_shifted)
    for is_shifted, rows in ((False, _ROWS), (True, _SHIFTED))
    for y, row in enumerate(rows)
    for x, char in enumerate(row)
    if char != " "
}

_SEPARATORS: Final = "-/._ "
_ORDERS: Final = ("dmy", "mdy", "ymd")


@dataclass(frozen=True, slots=True)
class Match:
    end: int
    bits: float
    kind: Kind


class Finder:
    """The patterns of one text, of which no more is given than can be looked at."""

    def __init__(self, text: str, context: tuple[str, ...]) -> None:
        self._text = text
        self._lower = folded(text)
        self._spellings = tuple("".join(map(table.get, self._lower, self._lower)) for table in ({}, _LEET, _LEET_OTHER))
        self._context = context_words(context)

    def at(self, start: int) -> Iterator[Match]:
        yield from self._words(start)
        yield from self._copies(start)
        yield from self._sequences(start)
        yield from self._walks(start)
        yield from self._dates(start)

    # Words.

    def _words(self, start: int) -> Iterator[Match]:
        rank_of = ranks()
        left = len(self._text) - start
        for length in range(WORD_LENGTH_MIN, min(WORD_LENGTH_MAX, left) + 1):
            for word, bits in self._readings(start, length):
                if (rank := rank_of.get(word)) is not None:
                    yield Match(start + length, PATTERN_BITS + log2(rank) + bits, Kind.WORD)
        for name in self._context:
            if len(name) <= left:
                for word, bits in self._readings(start, len(name)):
                    if word == name:
                        yield Match(start + len(name), PATTERN_BITS + bits, Kind.CONTEXT)

    def _readings(self, start: int, length: int) -> Iterator[tuple[str, float]]:
        """What may be meant: as it stands, with figures read as letters, and each of these backwards; and how many bits
        it takes to say so."""
        plain = self._lower[start : start + length]
        case_bits = self._case_bits(start, length)
        for spelling in self._spellings:
            word = spelling[start : start + length]
            substituted = sum(1 for one, other in zip(plain, word, strict=True) if one != other)
            if spelling is not self._spellings[0] and not substituted:
                continue
            yield word, case_bits + substituted
            if length >= REVERSED_LENGTH_MIN:
                yield word[::-1], case_bits + substituted + REVERSED_BITS

    def _case_bits(self, start: int, length: int) -> float:
        """Nothing for small letters, little for the usual ways of using capitals, more for others."""
        part = self._text[start : start + length]
        upper = sum(1 for char in part if "A" <= char <= "Z")
        letters = upper + sum(1 for char in part if "a" <= char <= "z")
        if upper == 0:
            return 0.0
        if upper == letters or (upper == 1 and ("A" <= part[0] <= "Z" or "A" <= part[-1] <= "Z")):
            return 1.0
        return 1.0 + min(upper, letters - upper)

    # What was there before.

    def _copies(self, start: int) -> Iterator[Match]:
        """As in a compressor: so many characters again from there. The copy may run into itself."""
        if start == 0:
            return
        where = PATTERN_BITS + log2(start)
        exact = max(self._same(self._text, earlier, start) for earlier in range(start))
        similar = max(self._same(self._lower, earlier, start) for earlier in range(start))
        shortest = 2 if self._text[start - 1] == self._text[start] else COPY_LENGTH_MIN
        for length in range(shortest, similar + 1):
            bits = where + log2(length)
            yield Match(start + length, bits if length <= exact else bits + COPY_CASE_BITS, Kind.REPEAT)
        mirrored = max(self._mirrored(earlier, start) for earlier in range(1, start + 1))
        for length in range(MIRROR_LENGTH_MIN, mirrored + 1):
            yield Match(start + length, where + log2(length) + REVERSED_BITS + COPY_CASE_BITS, Kind.REPEAT)

    def _same(self, text: str, earlier: int, start: int) -> int:
        length = 0
        while start + length < len(text) and text[earlier + length] == text[start + length]:
            length += 1
        return length

    def _mirrored(self, earlier: int, start: int) -> int:
        """How far the text before `earlier`, read backwards, is what follows from `start`."""
        length, text = 0, self._lower
        while length < earlier and start + length < len(text) and text[earlier - 1 - length] == text[start + length]:
            length += 1
        return length

    # What goes on by itself.

    def _sequences(self, start: int) -> Iterator[Match]:
        text = self._lower
        if start + 1 >= len(text):
            return
        size = _script_size(text[start])
        step = ord(text[start + 1]) - ord(text[start])
        if size == 0 or step == 0 or abs(step) > STEP_MAX:
            return
        choice = PATTERN_BITS + log2(size) + (0.0 if step == 1 else DOWN_BITS if step == -1 else STRIDE_BITS)
        end = start + 1
        while end < len(text) and ord(text[end]) - ord(text[end - 1]) == step and _script_size(text[end]) == size:
            end += 1
            length = end - start
            if length >= RUN_LENGTH_MIN:
                yield Match(end, choice + log2(length) + self._case_bits(start, length), Kind.SEQUENCE)

    def _walks(self, start: int) -> Iterator[Match]:
        """Along a keyboard, from key to neighbouring key."""
        place = _PLACES.get(self._text[start])
        turns, shifted, direction, end = 0, 0, None, start
        while place is not None:
            end += 1
            shifted += place[2]
            length = end - start
            if length >= (TURNED_LENGTH_MIN if turns else RUN_LENGTH_MIN):
                bits = PATTERN_BITS + log2(KEYS) + log2(length) + TURN_BITS * turns
                yield Match(end, bits + _shift_bits(shifted, length), Kind.KEYBOARD)
            following = _PLACES.get(self._text[end]) if end < len(self._text) else None
            if following is None:
                return
            step = (following[0] - place[0], following[1] - place[1])
            if step not in _NEIGHBOURS:
                return
            turns += direction is not None and step != direction
            direction, place = step, following

    def _dates(self, start: int) -> Iterator[Match]:
        year = self._number(start, 4)
        if year is not None and YEAR_MIN <= year <= YEAR_MAX:
            yield Match(start + 4, PATTERN_BITS + log2(YEARS), Kind.DATE)
        for order in _ORDERS:
            for separated in (False, True):
                for day_length in (1, 2) if separated else (2,):
                    for month_length in (1, 2) if separated else (2,):
                        for year_length in (2, 4):
                            lengths = {"d": day_length, "m": month_length, "y": year_length}
                            end = self._date(start, [(part, lengths[part]) for part in order], separated)
                            if end is not None:
                                bits = PATTERN_BITS + log2(YEARS * DAYS)
                                yield Match(end, bits + SEPARATOR_BITS if separated else bits, Kind.DATE)

    def _date(self, start: int, parts: list[tuple[str, int]], separated: bool) -> int | None:
        """Where the date ends, if there is one with these parts."""
        place, separator = start, ""
        for number, (part, length) in enumerate(parts):
            if separated and number > 0:
                char = self._text[place : place + 1]
                if not char or char not in _SEPARATORS or (separator and char != separator):
                    return None
                separator, place = char, place + 1
            value = self._number(place, length)
            if value is None or not _is_possible(part, value, length):
                return None
            place += length
        return place

    def _number(self, start: int, length: int) -> int | None:
        part = self._text[start : start + length]
        return int(part) if len(part) == length and all("0" <= char <= "9" for char in part) else None


def _is_possible(part: str, value: int, length: int) -> bool:
    if part == "d":
        return 1 <= value <= 31
    if part == "m":
        return 1 <= value <= 12
    return length == 2 or YEAR_MIN <= value <= YEAR_MAX


def _script_size(char: str) -> int:
    """How many one could have started with; 0 for signs, which have no order that people know."""
    if "a" <= char <= "z":
        return LETTERS
    if "0" <= char <= "9":
        return DIGITS
    return OTHERS if char > "\x7f" else 0


def _shift_bits(shifted: int, length: int) -> float:
    if shifted == 0:
        return 0.0
    return 1.0 if shifted == length else 1.0 + min(shifted, length - shifted)
