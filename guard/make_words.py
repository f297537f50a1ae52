"""Writes the estimator's word list, `src/cloister/protocol/passwords/words.txt`, from the lists in the package zxcvbn.

For development only: the result is committed, and neither the build nor a running platform needs that package. Run it
with `zxcvbn` installed, then look at what changes in vectors.jsonl.

The six lists are merged by the better rank. The estimator takes a quarter of a word's line for its rank: about where it
stands in a list of its own kind (`RANK_SHARE`).
"""

import importlib.metadata
import math
import re
from pathlib import Path
from typing import Final

from zxcvbn.frequency_lists import FREQUENCY_LISTS

TARGET: Final = Path(__file__).resolve().parent.parent / "src" / "cloister" / "protocol" / "passwords" / "words.txt"

TAKEN: Final = {
    "passwords": 15_000,
    "english_wikipedia": 15_000,
    "us_tv_and_film": 10_000,
    "surnames": 6_000,
    "female_names": 3_000,
    "male_names": 983,
}
OURS: Final = (
    *("cloister", "postgres", "postgresql", "postgre", "neondb", "neon", "database", "root", "admin", "administrator"),
    *("changeme", "default", "secret", "azerty", "qwertz", "letmein", "welcome", "test", "testing", "demo", "staging"),
)
LENGTHS: Final = range(3, 25)
PATTERN_BITS: Final = 2.0


def main() -> None:
    ranks = dict.fromkeys(OURS, 1)
    for name, count in TAKEN.items():
        for rank, word in enumerate(list(FREQUENCY_LISTS[name])[:count], start=1):
            if len(word) in LENGTHS and re.fullmatch(r"[!\"$-~][!-~]*", word) and word == word.lower():
                ranks[word] = min(rank, ranks.get(word, rank))
    merged: list[str] = []
    for word in sorted(ranks, key=lambda word: (ranks[word], word)):
        # One that is as easily guessed letter by letter only takes room.
        alphabet = 10 if word.isdigit() else 26
        if math.log2(len(merged) // 4 + 1) + PATTERN_BITS < len(word) * math.log2(alphabet):
            merged.append(word)
    licence = importlib.metadata.distribution("zxcvbn").read_text("LICENSE.txt")
    assert licence is not None
    notice = [
        "Common passwords, words and names, the most frequent first.",
        "Written by guard/make_words.py from the frequency lists of zxcvbn, which come under this licence:",
        "",
        *licence.splitlines(),
    ]
    text = "".join(f"# {line}".rstrip() + "\n" for line in notice)
    TARGET.write_text(text + "\n".join(merged) + "\n")


if __name__ == "__main__":
    main()
