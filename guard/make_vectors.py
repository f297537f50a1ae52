"""Writes vectors.jsonl, to which both estimators are held: passwords of every kind, with the numbers that the Python one
comes to. Run it when the algorithm or the word list changes, and read the difference: every line of it is somebody's
password that is accepted or refused where it was not before.
"""

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloister.protocol.passwords import estimate_prepared

TARGET: Final = Path(__file__).resolve().parent / "vectors.jsonl"

NAMES: Final = ("neondb_owner", "neondb")

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "the catalogue's": (
        *("Password1234!", "T3sting!23Ab", "qwertyuiop[]ASDF1", "aB3$aB3$aB3$"),
        *("correcthorsebatterystaple", "FLfASd8mbKO9"),
    ),
    "small": ("", "a", "7", "!", "aa", "ab", "abc", "cba", "aaa", "12", "1 ", "é", "日", "日本", "\x01\x7f"),
    "common": (
        *("password", "Password", "PASSWORD", "passworD", "pAssWord", "p@ssw0rd", "P455w0rd", "drowssap", "DROWSSAP"),
        *("123456", "12345678", "letmein", "iloveyou", "trustno1", "postgres", "postgresql", "cloister", "changeme"),
        *("dragon", "monkey123", "hunter2", "admin123", "welcome1", "Summer", "superman!", "michael", "Jennifer1987"),
        *("1llegal", "i11egal", "he11o w0r1d", "h3110", "7rus7n0", "|ove", "2ebra", "g00dby3", "(ool", "+ime"),
        *("correct horse battery staple", "correct-horse-battery-staple", "CorrectHorseBatteryStaple", "thecatsatonthemat"),
        *("correctHorse9!batteryStaple", "supercalifragilisticexpialidocious", "Tr0ub4dor&3", "passwordpassword1!"),
    ),
    "keyboard": (
        *("qwerty", "qwertz", "azerty", "asdfgh", "zxcvbn", "1qaz2wsx", "1qaz2wsx3edc4rfv", "!QAZ@WSX#EDC$RFV", "poiuyt"),
        *("qazwsxedc", "zaq12wsx", "qweasdzxc", "1qaz2wsx3edc$RFV", "QwErTyUiOp", "-=[]\\", "asdf;lkj", "`1234567890-=", "azsxdcfv"),
    ),
    "repeats": (
        *("aaaaaaaaaaaa", "abababababab", "abcabcabcabc", "xK9#xK9#xK9#xK9#", "hunter2hunter2hunter2", "Hunter2hunter2HUNTER2"),
        *("hunter2retnuh", "abcdeedcba", "vQ8#mK#8Qv", "a1a1a1a1a1a1a1a1", "!!!!!!!!!!!!!!!!", "-_-_-_-_-_-_-_-_", "  ", "日日日日日日日日"),
    ),
    "sequences": (
        *("abcdefghijkl", "lkjihgfedcba", "ABCDEFGHIJKL", "aBcDeFgHiJkL", "13579acegik", "9876543210", "147258369Aa!"),
        *("абвгдежзик", "ぁあぃいぅう", "zyxwvu987654", "adgjmpsvy", "0369", "fffggghhh", "😀😁😂😃😄😅"),
    ),
    "dates": (
        *("1987", "2024", "1899", "2100", "31121999", "12311999", "19991231", "311299", "991231", "31.12.1999", "1/2/2003"),
        *("1-2-03", "31.12/1999", "32.12.1999", "31.13.1999", "99-12-31", "2024-02-29", "31 12 1999", "31_12_1999", "1.1.1", "00.00.0000"),
        *("31.12.1999-01.01.2000", "Summer2024!", "Winter-2023-24", "P@ssw0rd!2024Spring", "January1st2020", "20202020"),
    ),
    "the login's names": (
        *("neondb_owner", "neondb-owner-2024", "NeonDB_Owner!!", "renwo_bdnoen", "ownerneondbowner", "n30ndb0wn3r", "neondbneondbneondb"),
        *("owner!owner?", "NEONDB", "xx_neondb_xx_yy"),
    ),
    "good": (
        *("npg_kQ7vWz3XnT1mYb5R", "Zt8$wLq2@Vn6!pXc", "x7K-pQ2-vM9-zR4-tB8", "J4mUsYq0ZpWdLc9E", "Vb!9 zQ# 7pL@ 2xM", "ñandú-œuvre-Übermut-çedille"),
        *("zufällig-Straße-größer", "пароль-Южный-Кедр", "古池や蛙飛びこむ水の音", "🦊🌵🚲🎻🧭🍄🛶🔭🪁🧩", "aardvark quixotic lozenge brimstone zephyr"),
        *("8f14e45fceea167a5a36dedd4bea2543", "9c2e6b1d-7f3a-4e58-b0c4-51d2a8f6e397", "dGhpcyBpcyBub3QgYSBwYXNzd29yZA=="),
    ),
    "bytes that are no UTF-8": tuple(
        raw.decode("utf-8", "surrogateescape")
        for raw in (b"\xff\xfe\xfd", b"p\xe4ssword", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xafabc", b"\xf4\x90\x80\x80", b"\xe0\x80\x80x")
    ),
    "long": (
        *("a" * 100, "a" * 101, "ab" * 60, "password" * 20, "é" * 150, "abcdefghijklmnopqrstuvwxyz" * 5),
        *("".join(chr(33 + i * 7 % 94) for i in range(100)), "x" * 99 + "password", "x" * 100 + "Zt8$wLq2@Vn6!pXc"),
    ),
}  # fmt: skip


def passwords() -> Iterator[tuple[str, str]]:
    for group, members in GROUPS.items():
        yield from ((group, password) for password in members)
    chosen = random.Random(60)  # noqa: S311 - the same ones each time
    for alphabet in (
        string.digits,
        string.ascii_lowercase,
        string.ascii_letters + string.digits,
        string.printable[:94],
    ):
        for length in (8, 10, 11, 12, 13, 14, 16, 20, 24):
            for _ in range(3):
                yield "random", "".join(chosen.choice(alphabet) for _ in range(length))
    pieces = (
        "Summer",
        "dragon",
        "2024",
        "!",
        "neondb",
        "123",
        "qwe",
        "xX",
        "é",
        "hunter2",
        "-",
        "0wn3r",
        "31.12.99",
        "zz",
    )
    for _ in range(120):
        yield "mixed", "".join(chosen.choice(pieces) for _ in range(chosen.randrange(2, 7)))


def vectors() -> Iterator[dict[str, object]]:
    seen = set()
    for group, password in passwords():
        for context in ((), NAMES) if group == "the login's names" else (NAMES,):
            if (password, context) in seen:
                continue
            seen.add((password, context))
            strict = estimate_prepared(password, context, "strict")
            neon = estimate_prepared(password, context, "neon")
            yield {
                "group": group,
                "password": password,
                "context": context,
                "characters": strict.characters,
                "strict": round(strict.bits, 3),
                "kinds": strict.kinds.value,
                "strict_accepts": strict.is_enough,
                "neon": round(neon.bits, 3),
                "neon_accepts": neon.is_enough,
            }


def main() -> None:
    TARGET.write_text("".join(json.dumps(vector) + "\n" for vector in vectors()))


if __name__ == "__main__":
    main()
