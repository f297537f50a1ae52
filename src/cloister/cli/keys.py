"""`cloister keys`: the keys of projects, as the key broker keeps them. Never the keys themselves."""

import time
from typing import IO, Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.key_backup import backup, drill, restore
from cloister.cli.key_shares import shares
from cloister.cli.output import Column
from cloister.cli.progress import Progress
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command, project_option

COLUMNS: Final = (
    Column("Project", "project_id"),
    Column("Purpose", "purpose"),
    Column("Version", "version"),
    Column("State", "state"),
    Column("Wrapped by", "provider"),
    Column("Created", "created_at", out.ago),
)

RING_COLUMNS: Final = (
    Column("Project", "project_id"),
    Column("State", "state"),
    Column("Destroyed at", "destroy_at"),
    Column("Rotated", "rotated_at", out.ago),
    Column("Rotated every (days)", "rotate_days"),
)

POLICY_COLUMNS: Final = (
    Column("Rotated every (days)", "rotate_days"),
    Column("Data encrypted anew every (days)", "reencrypt_days"),
)

REENCRYPTION_COLUMNS: Final = (
    Column("Project", "project_id"),
    Column("State", "state"),
    Column("Begun", "begun_at", out.ago),
    Column("In this pass", "passed_bytes", out.size),
    Column("Of", "used_bytes", out.size),
    Column("Pace per second", "bytes_per_s", out.size),
    Column("Ready", "ready_at", out.ago),
    Column("Does not wait for sleep", "now"),
    Column("Finished", "finished_at", out.ago),
    Column("Paused for (ms)", "paused_ms"),
    Column("Problem", "problem"),
)

ROOT_COLUMNS: Final = (
    Column("Provider", "provider"),
    Column("Root key", "root_version"),
    Column("Current", "is_current"),
    Column("Held by the broker", "is_held"),
    Column("Projects under it", "projects"),
)

REASON: Final = click.option("--reason", default="", metavar="TEXT", help="Why, for the audit log.")


_LOOK_EVERY_S: Final = 0.5


@click.group()
def keys() -> None:
    """See and govern the keys that projects are encrypted with.

    A root key wraps each project's own key, and that wraps the key of the project's volume. Rotating and moving to
    another root never changes a volume's key, so nothing is reopened and nobody waits; `keys reencrypt` does change it.
    docs/keys.md has the rest.
    """


for command in (shares, backup, restore, drill):
    keys.add_command(command)


@keys.command("list")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="Only those of this project.")
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List keys: what for, which version, in which state."""
    answer = session.api.get("/cloister/keys", project_id=project_id)
    session.show_list(answer.get("keys") or [], COLUMNS, empty="No key.")


@keys.command()
@project_option
@client_command
def show(session: Session, *, project_id: str | None) -> None:
    """Show whether a project's keys may be used, when they were rotated, and all their versions."""
    _show(session, session.api.get(_path(session, project_id)))


@keys.command()
@project_option
@client_command
def rotate(session: Session, *, project_id: str | None) -> None:
    """Give a project a new key of its own, and wrap the keys below it anew.

    The volume's key and the data stay as they are: running computes notice nothing. What is replaced is destroyed after
    seven days. `keys policy` does this by itself.
    """
    _show(session, session.api.post(_path(session, project_id) + "/rotate"))


class Pace(click.ParamType[int]):
    """Bytes per second: `50M`."""

    name = "pace"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().removesuffix("/s")
        units = {"K": 10**3, "M": 10**6, "G": 10**9}
        number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
        if not number.isascii() or not number.isdigit():
            self.fail(f"{value!r} is no pace: a number of bytes per second, such as 50M", param, ctx)
        return int(number) * unit


@keys.command()
@click.option("--speed", type=Pace(), metavar="BYTES", help="Per second: 20M, 1G. 50M, unless said.")
@click.option("--now", is_flag=True, help="Pause the project when the copy is ready; do not wait until it sleeps.")
@click.option("--pause", "verb", flag_value="pause", help="Stop for now; what was copied stays.")
@click.option("--cancel", "verb", flag_value="cancel", help="Give it up; the copy is removed, its key destroyed.")
@click.option("--status", "verb", flag_value="status", help="Only show how far it is.")
@click.option("--wait", is_flag=True, help="Return when it is done.")
@project_option
@client_command
def reencrypt(
    session: Session, *, speed: int | None, now: bool, verb: str | None, wait: bool, project_id: str | None
) -> None:
    """Encrypt a project's data anew, under another key of its volume.

    Every block is copied into a second image while the project works; then that one takes the place of the first, whose key is
    destroyed. Against somebody who once had the key: `keys rotate` does not help there. It needs as much free disk as the
    project takes.

    In the end the project is closed while all of it is compared once more: a second for 200 MB, on a busy machine for 20. This
    waits until it sleeps, at most a day; with --now it does not, and its clients are disconnected. Asked for again, it goes on,
    at the new pace.
    """
    path = _path(session, project_id) + "/reencryption"
    if verb is not None and (speed is not None or now or wait):
        raise click.UsageError(f"--{verb} stands alone")
    match verb:
        case "status":
            it = session.api.get(path)
        case "pause":
            it = session.api.post(path + "/pause")
        case "cancel":
            it = session.api.delete(path)
        case _:
            it = session.api.post(path, {"now": now} | ({} if speed is None else {"bytes_per_s": speed}))
    if wait:
        it = _done(session, path, it)
    session.show(it, REENCRYPTION_COLUMNS)


def _done(session: Session, path: str, it: Json) -> Json:
    with Progress("Encrypting anew"):
        while it["state"] == "copying":
            if it.get("problem"):
                raise CommandError(f"it does not get on, and is tried again: {it['problem']}")
            time.sleep(_LOOK_EVERY_S)
            it = session.api.get(path)
    if it["state"] != "done":
        raise CommandError(f"it is {it['state']}")
    return it


@keys.command()
@REASON
@project_option
@client_command
def disable(session: Session, *, reason: str, project_id: str | None) -> None:
    """Refuse every further use of a project's keys.

    A compute that runs lives on with the key it has; one that sleeps cannot wake, and its clients are told why. To end
    running computes as well: `cloister endpoints suspend`.
    """
    _show(session, session.api.post(_path(session, project_id) + "/disable", {"reason": reason}))


@keys.command()
@project_option
@client_command
def enable(session: Session, *, project_id: str | None) -> None:
    """Allow the use of a project's keys again."""
    _show(session, session.api.post(_path(session, project_id) + "/enable"))


@keys.command()
@click.option("--days", type=click.IntRange(7, 30), default=30, show_default=True, help="How long it can be cancelled.")
@REASON
@project_option
@client_command
def destroy(session: Session, *, days: int, reason: str, project_id: str | None) -> None:
    """Schedule the destruction of a project's keys, after which nobody can ever read its data.

    The keys are disabled at once, and destroyed when the days are over; until then `keys cancel` calls it off. Backups
    do not bring them back. A project with a protected branch is refused.
    """
    _show(session, session.api.post(_path(session, project_id) + "/destroy", {"days": days, "reason": reason}))


@keys.command()
@project_option
@client_command
def cancel(session: Session, *, project_id: str | None) -> None:
    """Call off a scheduled destruction. The keys stay disabled: `keys enable` is a decision of its own."""
    _show(session, session.api.post(_path(session, project_id) + "/cancel"))


@keys.command()
@click.option("--org-id", required=True, metavar="ID", help="Whose projects.")
@click.option("--rotate-days", type=click.IntRange(1, 2560), help="Rotate keys that are older than this.")
@click.option(
    "--reencrypt-days", type=click.IntRange(0, 2560), help="Encrypt data anew that is older than this; 0: never."
)
@client_command
def policy(session: Session, *, org_id: str, rotate_days: int | None, reencrypt_days: int | None) -> None:
    """Show or set how often the keys of an organization's projects are rotated, and their data is encrypted anew.

    Yearly, and never, unless it says otherwise. A key that is older than the new period is rotated within a minute; data
    that is, is encrypted anew as by `keys reencrypt`, two projects at a time.
    """
    path = f"/cloister/organizations/{segment(org_id)}/key_policy"
    answer = session.api.get(path)
    if rotate_days is not None or reencrypt_days is not None:
        wanted = answer.get("reencrypt_days") if reencrypt_days is None else reencrypt_days or None
        answer = session.api.put(path, {"rotate_days": rotate_days or answer["rotate_days"], "reencrypt_days": wanted})
    session.show(answer, POLICY_COLUMNS)


@keys.command()
@client_command
def providers(session: Session) -> None:
    """Show which root keys there are, and how many projects stand under each.

    While a platform moves to another root, the number under the old one falls to zero; then the old one can go. One that
    the broker does not hold is shown too: the projects under it cannot wake.
    """
    _show_roots(session, _roots(session))


@keys.command()
@click.argument("root", type=click.File("rb"), metavar="FILE")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds to wait.")
@client_command
def migrate(session: Session, *, root: IO[bytes], timeout: float) -> None:
    """Make another root key wrap all projects' keys: on the server, as root. Nothing is reopened, nobody waits.

    FILE describes the new root; docs/keys.md says more about each:

    \b
    {"kind": "file", "path": "/var/lib/cloister/secrets/root-2.key"}
    {"kind": "pkcs11", "library": "…/libsofthsm2.so", "token": "T", "key": "K", "pin_file": "…"}
    {"kind": "aws-kms", "key_id": "arn:aws:kms:…", "region": "eu-central-1"}
    {"kind": "vault", "address": "https://…:8200", "key": "K", "token_file": "…"}

    A key file that is not there is made, with a new key in it. The new root is tried before anything is changed. What the
    old one wraps stays readable with it until every project has moved; cut off, the move goes on by itself.
    """  # noqa: D301 - click takes the escape for "as it stands"
    from cloister.cli.key_roots import move  # noqa: PLC0415 - the broker's client, on the server alone

    if session.state_dir is None:
        raise CommandError("the root key is changed on the server itself")
    move(session.state_dir, root.read())
    with Progress("wrapping every project's key anew"):
        deadline = time.monotonic() + timeout
        while any(it["projects"] and not it["is_current"] for it in _roots(session)["roots"]):
            if time.monotonic() > deadline:
                raise CommandError("not all have moved yet; it goes on: see `cloister keys providers`")
            time.sleep(0.5)
    _show_roots(session, _roots(session))


def _roots(session: Session) -> Json:
    return session.api.get("/cloister/keys/roots")


def _show_roots(session: Session, answer: Json) -> None:
    if session.is_json:
        session.show(answer, ())
        return
    session.show_list(answer["roots"], ROOT_COLUMNS, empty="No root key.")
    out.note(
        f"Keystore epoch {answer['epoch']}, {answer['seals']} seals: docs/keys.md says what to copy, and what not."
    )


def _path(session: Session, project_id: str | None) -> str:
    return f"/cloister/projects/{segment(session.project_id(project_id))}/keys"


def _show(session: Session, ring: Json) -> None:
    session.show(ring, RING_COLUMNS)
    if not session.is_json:
        click.echo()
        session.show_list(ring["keys"], COLUMNS[1:], empty="No key.")
