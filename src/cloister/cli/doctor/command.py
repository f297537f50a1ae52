"""The command `cloister doctor`."""

from collections import Counter
from pathlib import Path
from typing import Final

import click

from cloister.base.settings import load
from cloister.cli import output as out
from cloister.cli.doctor.finding import Finding, Level, Subject
from cloister.cli.platform import directory, state_dir_option

_SIGNS: Final = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.FAIL: ("FAIL", "red")}


@click.command()
@state_dir_option
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option(
    "--flows", "only_flows", is_flag=True, help="Only who may reach what: each user tries each socket and file."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def doctor(ctx: click.Context, state_dir: Path | None, strict: bool, only_flows: bool, as_json: bool) -> int:
    """Check this host and its platform. Exit code 1 if anything fails, or could not be checked.

    Before a platform exists it checks the host alone.
    """
    from cloister.cli.doctor.checks import FLOWS, GROUPS, examine, is_healthy  # noqa: PLC0415 - heavy

    place = directory(ctx, state_dir)
    subject = Subject(place, load(place) if (place / "settings.json").exists() else None)
    found: list[tuple[str, Finding]] = []
    group = ""
    for title, finding in examine(subject, (FLOWS,) if only_flows else GROUPS):
        found.append((title, finding))
        if not as_json:
            if title != group:
                click.secho(title, bold=True)
                group = title
            _show(finding)
    findings = [finding for _, finding in found]
    healthy = is_healthy(findings, strict=strict)
    if as_json:
        out.show_json(
            {
                "healthy": healthy,
                "platform": str(place) if subject.settings else None,
                "checks": [
                    {
                        "group": title,
                        "about": each.about,
                        "verdict": each.level.value.lower(),
                        "seen": each.seen,
                        "advice": each.advice,
                    }
                    for title, each in found
                ],
            }
        )
    else:
        _summarise(findings, subject)
    return 0 if healthy else 1


def _show(finding: Finding) -> None:
    word, colour = _SIGNS[finding.level]
    sign = click.style(word.ljust(7), fg=colour, bold=finding.level is not Level.OK)
    advice = f" → {finding.advice}" if finding.advice else ""
    click.echo(f"  {sign}  {out.printable(f'{finding.about}: {finding.seen}{advice}')}")


def _summarise(findings: list[Finding], subject: Subject) -> None:
    counts = Counter(finding.level for finding in findings)
    told = ", ".join(
        f"{counts[level]} {level.value}{'s' if level is Level.WARNING and counts[level] > 1 else ''}"
        for level in Level
        if counts[level]
    )
    where = f"the platform in {subject.state_dir}" if subject.settings else "this host; there is no platform here yet"
    click.echo(f"\n{told}: {where}")
