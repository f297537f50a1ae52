"""`cloister config`: export, plan, apply. The rim: files in, text out, exit codes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.config import commits, held, parsing, planning, printing, rules, showing, signing
from cloister.cli.config.applying import Applier
from cloister.cli.config.parsing import Configuration, ConfigurationError
from cloister.cli.config.planning import Plan
from cloister.cli.config.platform import Platform, organization_id
from cloister.cli.config.rules import Refused
from cloister.cli.failure import CommandError
from cloister.cli.output import printable
from cloister.cli.progress import Progress
from cloister.cli.session import Session, client_command

WOULD_CHANGE: Final = 2
WOULD_CHANGE_AND_REFUSED: Final = 3
"""Exit codes with --detailed-exitcode; 1 is an error, as ever."""

_PATH: Final = click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
_ALLOW: Final = click.option(
    "--allow", "allowed", multiple=True, metavar="RULE", help="Go on although this rule refuses it. Repeatable."
)
_RULES: Final = click.option(
    "--rules",
    "rules_file",
    type=click.Path(path_type=Path),
    help="A file of rules of your own, beside those that there are.",
)
_OUR_RULES: Final = (
    f"Rules: {', '.join(rule.id for rule in rules.BUILT_IN)}. docs/configuration.md says what each refuses."
)


@click.group()
def config() -> None:
    """Keep what projects are in files, under version control: export, plan, apply.

    PATH is a .toml file, or a directory of them. docs/configuration.md says what stands in it.
    """


@config.command()
@click.option("--org-id", metavar="ID", default="", help="The organization. Default: the only one there is.")
@click.option("--project-id", "--project", "project_ids", multiple=True, metavar="ID", help="Only this. Repeatable.")
@client_command
def export(session: Session, *, org_id: str, project_ids: Sequence[str]) -> None:
    """Print what is there as a file that says so.

    Without a password in it; sorted, so that the same is written the same. A plan of it is empty.
    """
    session.api.waits_its_turn = True
    org_id = organization_id(session.api, org_id)
    platform = Platform(session.api, org_id)
    with Progress("Reading the platform"):
        there = platform.read_all(project_ids=project_ids)
    for each in platform.notes:
        out.note(each)
    if session.is_json:
        out.show_json({"format": parsing.FORMAT, "organization": org_id, **printing.as_json(there)})
    else:
        click.echo(printing.printed(org_id, there), nl=False)


@config.command(epilog=_OUR_RULES)
@_PATH
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit with 0 if nothing would change, 2 if something would, 3 if a rule refuses it; 1 is an error.",
)
@_ALLOW
@_RULES
@client_command
def plan(
    session: Session, *, path: Path, detailed_exitcode: bool, allowed: Sequence[str], rules_file: Path | None
) -> int:
    """Show what would have to be made, changed and destroyed. Nothing is.

    A step that a rule refuses is marked, and the exit code is 1; --allow names what is meant all the same. The plan's hash is
    what `apply --plan` holds the platform to.
    """
    own = _rules(rules_file)
    made, platform = _planned(session, path)
    refused = rules.judge(made.items, own, allowed)
    _show(session, made, refused, platform.notes)
    if refused and not (detailed_exitcode and made.items):
        raise CommandError(showing.refusal(refused))
    if refused:
        out.note(showing.refusal(refused))
        return WOULD_CHANGE_AND_REFUSED
    return WOULD_CHANGE if detailed_exitcode and made.items else 0


_SIGNERS: Final = click.option(
    "--signers",
    "signers_file",
    type=click.Path(path_type=Path),
    envvar="CLOISTER_SIGNERS",
    help="Only a commit that one of these has signed: a file as git's gpg.ssh.allowedSignersFile, outside the repository.",
)


@config.command(epilog=_OUR_RULES)
@_PATH
@click.option("--plan", "agreed", metavar="HASH", help="The plan that was agreed on: any other is refused.")
@click.option("--yes", is_flag=True, help="Apply whatever the plan is now, without asking.")
@click.option("--commit", metavar="HEX", help="The commit that was reviewed. Default: git's, if PATH is as committed.")
@_SIGNERS
@_ALLOW
@_RULES
@client_command
def apply(
    session: Session,
    *,
    path: Path,
    agreed: str | None,
    yes: bool,
    commit: str | None,
    signers_file: Path | None,
    allowed: Sequence[str],
    rules_file: Path | None,
) -> None:
    """Make the platform what the configuration says.

    The plan is made anew. With --plan it has to be the one that was agreed on, to the letter; otherwise somebody at a terminal
    is asked. Steps are taken one after the other; the first that fails ends it, and the same command goes on from there. Each
    event in the audit log that comes of it names the plan, and the commit, and who signed that where --signers asked.
    """
    own = _rules(rules_file)
    commit = _commit(path, commit)
    signer = None if signers_file is None else _signer(path, commit, signers_file)
    made, platform = _planned(session, path)
    if signer is not None and commits.commit_of(path) != commit:
        raise CommandError(f"{path} was changed while it was read")
    refused = rules.judge(made.items, own, allowed)
    if not session.is_json:
        _show(session, made, refused, platform.notes)
    if made.items and agreed is not None and agreed != made.hash:
        raise CommandError(f"this is plan {made.hash}, not the one that was agreed on: something has changed since")
    if refused:
        raise CommandError(showing.refusal(refused))
    if made.items and agreed is None and not yes:
        _ask(session)
    if made.items and not commit:
        out.note(
            "The audit log names no commit for this: PATH is not in a git working tree, or not as it was committed."
        )
    done = _carry_out(session, platform, made, f"{commit};signer={signer.fingerprint}" if signer else commit)
    if session.is_json:
        out.show_json(showing.as_json(made, refused, platform.notes) | {"done": done})


@config.command()
@_PATH
@_SIGNERS
@client_command
def verify(session: Session, *, path: Path, signers_file: Path | None) -> None:
    """Hold what the audit log says was applied to the repository that PATH is in.

    Each commit that an event names has to be there, as its name says, and in the history of what is checked out; with --signers,
    signed by one of these, and by whom the event says. Exits with 1 where one is not.
    """
    signers = None if signers_file is None else signing.read(signers_file, path)
    session.api.waits_its_turn = True
    with Progress("Reading the audit log"):
        applied = held.applied(session.api)
    found = [held.held(each, path, signers) for each in applied]
    if session.is_json:
        out.show_json({"applied": [each.as_json() for each in found]})
    else:
        for each in found:
            click.echo(printable(each.line))
    if wrong := sum(bool(each.why) for each in found):
        raise CommandError(f"{wrong} of {len(found)} are not as the log says")


def _signer(path: Path, commit: str, file: Path) -> signing.Signer:
    signers = signing.read(file, path)
    if not commit or commit != commits.commit_of(path):
        raise CommandError("PATH is not as a commit has it, so nobody has signed it")
    return signing.signer_of(path, commit, signers)


def _ask(session: Session) -> None:
    if session.is_json or not sys.stdin.isatty():
        raise CommandError(
            "nobody is at a terminal to be asked: name the plan that was agreed on with --plan, or say --yes"
        )
    if not click.confirm("Apply it?", err=True):
        raise CommandError("nothing was done")


def _carry_out(session: Session, platform: Platform, made: Plan, commit: str) -> int:
    """Returns how many steps were taken. Raises CommandError that says how far it got."""
    session.api.change = f"plan={made.hash}{f';commit={commit}' if commit else ''}"
    applier = Applier(session.api, platform, made)
    for number, item in enumerate(made.items, 1):
        line = printable(f"[{number}/{len(made.items)}] {showing.step(item)}")
        try:
            with Progress(line):
                applier.take(item)
        except CommandError as error:
            left = len(made.items) - number
            raise CommandError(
                f"{item.address}: {error}. Done: {number - 1} of {len(made.items)} steps; this one failed"
                f"{f', {left} after it were not begun' if left else ''}. The same command goes on from here"
            ) from error
        if not session.is_json:
            click.echo(line)
    for place in showing.unseen_passwords(made):
        out.note(f"{place}: nobody has seen its password (cloister roles reset-password)")
    for name in showing.unseen_keys(made):
        out.note(f"service_account.{name}: nobody has seen its key (cloister service-accounts rotate {name})")
    return len(made.items)


def _commit(path: Path, said: str | None) -> str:
    if said is None:
        return commits.commit_of(path)
    if not commits.is_commit(said):
        raise click.UsageError("--commit is the whole hash of a commit: 40 or 64 hexadecimal digits")
    return said


def _planned(session: Session, path: Path) -> tuple[Plan, Platform]:
    """What the files say, held against the platform as it is now."""
    configuration = read(path)
    session.api.waits_its_turn = True
    org_id = organization_id(session.api, configuration.organization_id)
    platform = Platform(session.api, org_id)
    with Progress("Reading the platform"):
        made = planning.plan(org_id, configuration.wanted, platform.read(configuration.wanted))
    if made.problems:
        for each in made.problems[:-1]:
            out.note(each)
        raise CommandError(made.problems[-1])
    return made, platform


def read(path: Path) -> Configuration:
    """Of a directory, every .toml file in it. Raises ConfigurationError, OSError."""
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    return parsing.parse([(each.name, _content(each)) for each in files])


def _rules(path: Path | None) -> list[rules.Rule]:
    own = [] if path is None else rules.parse_rules(path.name, _content(path))
    return [*rules.BUILT_IN, *own]


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(parsing.FILE_BYTES_MAX + 1)
    if len(content) > parsing.FILE_BYTES_MAX:
        raise ConfigurationError(f"{path.name} has more than {parsing.FILE_BYTES_MAX} bytes")
    return content


def _show(session: Session, made: Plan, refused: Sequence[Refused], notes: Sequence[str]) -> None:
    if session.is_json:
        out.show_json(showing.as_json(made, refused, notes))
        return
    for line in showing.lines(made, refused):
        click.echo(line)
    for each in notes:
        out.note(each)
