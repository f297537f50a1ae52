"""A file into passages: pieces that are short enough to be one thought, and know where they stand. Pure.

A passage never crosses a page or a heading; it ends at the end of a sentence where there is one.
"""

import io
import re
from dataclasses import dataclass
from typing import Final

from pypdf import PdfReader
from pypdf.errors import PyPdfError

FILE_BYTES_MAX: Final = 5 * 1024 * 1024
TEXT_CHARS_MAX: Final = 400_000
PAGES_MAX: Final = 300
WORDS: Final = 90
# Some 120 word pieces: well inside of what the model reads.

_HEADING: Final = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
_SENTENCE: Final = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")


class UnreadableError(Exception):
    """The text is for the user."""


@dataclass(frozen=True, slots=True)
class Passage:
    place: str
    """A page or a heading; empty where there is neither."""
    text: str


def read(name: str, content: bytes) -> list[Passage]:
    """Raises UnreadableError."""
    suffix = name.rpartition(".")[2].lower()
    if len(content) > FILE_BYTES_MAX:
        raise UnreadableError(f"The file is larger than {FILE_BYTES_MAX // 1024 // 1024} MB.")
    match suffix:
        case "pdf":
            sections = _pages(content)
        case "txt" | "md" | "markdown":
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise UnreadableError("The file is not text in UTF-8.") from None
            sections = _sections(text) if suffix != "txt" else [("", text)]
        case _:
            raise UnreadableError("Only .txt, .md and .pdf files can be read.")
    if sum(len(text) for _, text in sections) > TEXT_CHARS_MAX:
        raise UnreadableError(f"The text has more than {TEXT_CHARS_MAX} characters.")
    found = [Passage(place, piece) for place, text in sections for piece in _pieces(text.replace("\0", " "))]
    if not found:
        raise UnreadableError("There is no text in this file. (Scanned pages are pictures.)")
    return found


def sentences(text: str) -> list[str]:
    return [each for each in _SENTENCE.split(text) if each.strip()]


def _pages(content: bytes) -> list[tuple[str, str]]:
    try:
        reader = PdfReader(io.BytesIO(content))
        is_readable = not reader.is_encrypted and len(reader.pages) <= PAGES_MAX
        pages = [page.extract_text() for page in reader.pages] if is_readable else []
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError):
        # What a broken file makes of a reader of a format of 1 300 pages.
        raise UnreadableError("The PDF cannot be read.") from None
    if not is_readable:
        raise UnreadableError(f"The PDF is encrypted or has more than {PAGES_MAX} pages.")
    return [(f"page {number}", text) for number, text in enumerate(pages, 1)]


def _sections(markdown: str) -> list[tuple[str, str]]:
    sections: list[tuple[str, list[str]]] = [("", [])]
    is_code = False
    for line in markdown.splitlines():
        is_code ^= line.lstrip().startswith("```")
        heading = None if is_code else _HEADING.match(line)
        if heading is None:
            sections[-1][1].append(line)
        else:
            sections.append((heading[1][:120], []))
    return [(place, "\n".join(lines)) for place, lines in sections]


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    current: list[str] = []
    for sentence in sentences(" ".join(text.split())):
        words = sentence.split()
        if current and len(current) + len(words) > WORDS:
            pieces.append(" ".join(current))
            current = []
        current += words
        while len(current) > WORDS:  # a list, a table: no end of a sentence for long
            pieces.append(" ".join(current[:WORDS]))
            current = current[WORDS:]
    if current:
        pieces.append(" ".join(current))
    return pieces
