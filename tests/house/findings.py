"""The table of findings in docs/alerts.md, and how many there are. `python -m tests.house.findings` writes both from the sentinel's
rules."""

import re
from typing import Final

from cloister.trust.sentinel import rules
from cloister.trust.sentinel.rules import Level
from tests.house.source import ROOT

PAGE: Final = ROOT / "docs" / "alerts.md"
HEAD: Final = "|---|---|---|---|---|---|\n"
_FIELD: Final = re.compile(r"\{(?:\w+\.)?(\w+?)(?:_id)?\}")
_RAISED: Final = re.compile(r"^\d+ findings raised", re.MULTILINE)


def written() -> str:
    """The page as it should be: what each finding means, in the rules' own words, the gravest first."""
    before, _, rest = PAGE.read_text().partition(HEAD)
    _, _, after = rest.partition("\n\n")
    told = [(-list(Level).index(it.level), it) for it in rules.shipped() if it.level is not None]
    lines = [
        f"| `{it.name}` | {it.level} | {it.description} | {'; '.join(it.falsepositives) or 'none known'} "
        f"| {_FIELD.sub(_placeholder, it.response)} | {it.tags[0].removeprefix('cloister.')} |"
        for _, it in sorted(told, key=lambda pair: (pair[0], pair[1].name))
    ]
    before = _RAISED.sub(f"{len(told)} findings raised", before)
    return before + HEAD + "\n".join(lines) + "\n\n" + after


def _placeholder(field: re.Match[str]) -> str:
    """As the command line's help writes it."""
    return "FINDING" if field[1] == "id" else field[1].upper()


if __name__ == "__main__":
    PAGE.write_text(written())
