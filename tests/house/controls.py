"""docs/controls.tsv, and the page that shows it. `python -m tests.house.controls` writes the page."""

import itertools
from dataclasses import dataclass

from tests.house.source import ROOT

TABLE = ROOT / "docs" / "controls.tsv"
PAGE = ROOT / "docs" / "controls.md"
GROUPS = {
    "C": "Connections and passwords",
    "I": "IP Allow",
    "P": "Protected branches",
    "B": "Backups",
    "BK": "Backups, in parts",
    "E": "Encryption and keys",
    "ENC": "Volumes",
    "KMS": "The life of keys",
    "A": "People and access",
    "IAC": "Infrastructure as code",
    "S": "Segmentation",
    "G": "Anomalies",
    "D": "What must be found",
    "L": "The record",
    "AL": "The audit log",
    "T": "What hostile tenants, strangers and root may try",
}
HEAD = """\
# Controls

What we were asked to build began as the *Security overview* of a cloud. Its sentences are on the left (I, P, B, E, A, S, G, L, C), and
what follows from them for the parts that hold them; in the last table those of our threat model; what holds each of them here, in which code, which tests try to get past it, and how you see it on a running
platform, is on the right. **partly** and **not yet** say what is missing. `scripts/mutants` takes each of them out, one at a time, in a copy of the
checkout, and demands that a test of its row fails. What was weighed is in `docs/adr/`; who attacks, and what is not defended, in [SECURITY.md](../SECURITY.md).

<!-- written from docs/controls.tsv by `python -m tests.house.controls`; tests/house/test_controls.py holds it to the code -->
"""


@dataclass(frozen=True)
class Control:
    row: str
    seed: str
    state: str
    control: str
    code: list[str]
    tests: list[str]
    evidence: str
    missing: str

    @property
    def group(self) -> str:
        return "".join(itertools.takewhile(str.isupper, self.row))


def controls() -> list[Control]:
    header, *lines = TABLE.read_text().splitlines()
    assert header == "row\tseed\tstate\tcontrol\tcode\ttests\tevidence\tmissing"
    found = []
    for line in lines:
        row, seed, state, control, code, tests, evidence, missing = line.split("\t")
        found.append(Control(row, seed, state, control, code.split(), tests.split(), evidence, missing))
    return found


def page() -> str:
    parts = [HEAD]
    for group, title in GROUPS.items():
        parts.append(f"\n## {title}\n\n| | Asked | Here | Held by | Seen with |\n|---|---|---|---|---|\n")
        parts += [_line(each) for each in controls() if each.group == group]
    return "".join(parts)


def _line(it: Control) -> str:
    here = f"{it.control}. " if it.control else ""
    if it.state != "yes":
        here += f"**{it.state}**: {it.missing}"
    where = " ".join(f"[{_short(path)}](../{path})" for path in it.code)
    tests = " ".join(
        f"[{_short(each.partition('::')[0])}](../{each.partition('::')[0]})" for each in dict.fromkeys(it.tests)
    )
    held = "; ".join(part for part in (where, tests) if part)
    seen = f"`{it.evidence}`" if it.evidence and not it.evidence.startswith("docs/") else _page(it.evidence)
    return f"| {it.row} | {it.seed} | {here.strip()} | {held} | {seen} |\n"


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def _page(path: str) -> str:
    return f"[{_short(path)}]({path.removeprefix('docs/')})" if path else ""


if __name__ == "__main__":
    PAGE.write_text(page())
