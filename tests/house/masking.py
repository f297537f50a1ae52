"""The table of functions in docs/masking.md. `python -m tests.house.masking` writes it from the functions that there are."""

from typing import Final

from cloister.protocol.masking import FUNCTIONS
from tests.house.source import ROOT

PAGE: Final = ROOT / "docs" / "masking.md"
HEAD: Final = "| Function | What the column holds then | NULL |\n|---|---|---|\n"


def written() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(HEAD)
    _, _, after = rest.partition("\n\n")
    lines = [
        f"| `{it.signature.replace('|', chr(92) + '|')}` | {it.meaning} | {'stays' if it.keeps_null else 'as any other'} |"
        for it in FUNCTIONS.values()
    ]
    return before + HEAD + "\n".join(lines) + "\n\n" + after


if __name__ == "__main__":
    PAGE.write_text(written())
