"""What every client command shares: the platform it asks, the form of its output, and the project it is about."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from cloister.cli import output as out
from cloister.cli import target
from cloister.cli.api import PRODUCT, Api, Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.progress import Progress
from cloister.cli.waiting import wait_for

P = ParamSpec("P")
R = TypeVar("R")

PROJECT_VARIABLE: Final = "CLOISTER_PROJECT"

_BRANCH_ID: Final = re.compile(r"br-[a-z0-9]+-[a-z0-9]+-[a-z0-9]+")
# As in the Neon CLI: what looks like an id is one, everything else is a name.


class Session:
    """One run of one client command."""

    def __init__(self, state_dir: Path | None, output: str, *, product: str = PRODUCT, signs: bool = True) -> None:
        """`signs`: a person is there, who may have a passkey."""
        self._state_dir = state_dir
        self._output = output
        self._product = product
        self._signs = signs

    @property
    def is_json(self) -> bool:
        return self._output == "json"

    @property
    def state_dir(self) -> Path | None:
        """Where the platform lives that is asked; None if it is asked from elsewhere."""
        if self._state_dir is None and os.environ.get(target.HOST_VARIABLE):
            return None
        from cloister.base.settings import STATE_DIR_DEFAULT  # noqa: PLC0415 - not paid for by remote clients

        return self._state_dir or STATE_DIR_DEFAULT

    @functools.cached_property
    def platform(self) -> target.Target:
        """Where it is, without a key."""
        return target.find_without_key(os.environ, self._state_dir)

    @functools.cached_property
    def api(self) -> Api:
        return Api(target.find(os.environ, self._state_dir), product=self._product, signs=self._signs)

    def project_id(self, given: str | None) -> str:
        """The project named by --project-id or CLOISTER_PROJECT, or the only one there is."""
        if given:
            return given
        found = self.api.get("/projects", limit=2).get("projects") or []
        match found:
            case [only]:
                return str(only["id"])
            case []:
                raise CommandError("there is no project yet: `cloister projects create` makes one")
            case _:
                raise CommandError(f"there are several projects: name one with --project-id or {PROJECT_VARIABLE}")

    def branch(self, project_id: str, given: str | None) -> Json:
        """The branch with that id or name; without either, the default branch."""
        if given and _BRANCH_ID.fullmatch(given):
            branch: Json = self.api.get(f"{project_path(project_id)}/branches/{segment(given)}")["branch"]
            return branch
        for found in self.api.pages(f"{project_path(project_id)}/branches", "branches"):
            if found["name"] == given or (given is None and found.get("default")):
                return found
        raise CommandError(
            f"project {project_id} has no branch {given!r}" if given else f"project {project_id} has no branch"
        )

    def branch_id(self, project_id: str, given: str | None) -> str:
        """An id is taken at its word."""
        if given and _BRANCH_ID.fullmatch(given):
            return given
        return str(self.branch(project_id, given)["id"])

    def branch_path(self, project_id: str, given: str | None) -> str:
        return f"{project_path(project_id)}/branches/{segment(self.branch_id(project_id, given))}"

    def settle(self, answer: Json, doing: str, *, wait: bool) -> None:
        """Wait for the operations of an answer, if asked to."""
        if wait:
            with Progress(doing):
                wait_for(self.api, answer.get("operations") or [])

    def show_list(self, rows: Sequence[Json], columns: Sequence[out.Column], *, empty: str) -> None:
        out.show_list(rows, columns, output=self._output, empty=empty)

    def show(self, thing: Json, columns: Sequence[out.Column]) -> None:
        out.show_one(thing, columns, output=self._output)

    def close(self) -> None:
        if "api" in self.__dict__:
            self.api.close()


def project_path(project_id: str) -> str:
    return f"/projects/{segment(project_id)}"


def client_command(command: Callable[Concatenate[Session, P], R]) -> Callable[..., R]:
    """Gives a command `--output` and `--state-dir`, and a Session as its first argument."""

    @click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="Form of the output.")
    @click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Ask the platform of this machine that lives here.",
    )
    @click.pass_context
    @functools.wraps(command)
    def wrapped(ctx: click.Context, /, *args: Any, output: str, state_dir: Path | None, **kwargs: Any) -> R:
        session = Session(state_dir or ctx.obj, output)
        try:
            return command(session, *args, **kwargs)
        finally:
            session.close()

    return wrapped


def project_option(command: Callable[P, R]) -> Callable[P, R]:
    return click.option(
        "--project-id",
        "--project",
        envvar=PROJECT_VARIABLE,
        metavar="ID",
        help="The project. Default: the only one there is.",
    )(command)


def branch_option(command: Callable[P, R]) -> Callable[P, R]:
    return click.option("--branch", metavar="BRANCH", help="Id or name of the branch. Default: the default branch.")(
        command
    )


def wait_option(command: Callable[P, R]) -> Callable[P, R]:
    return click.option("--wait/--no-wait", default=True, help="Return when the work is done (default), or at once.")(
        command
    )


class ComputeUnits(click.ParamType[Json]):
    """`0.5` or `0.25-2`: the smallest and largest size of a compute."""

    name = "MIN-MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Json:
        if isinstance(value, dict):
            return value
        low, dash, high = str(value).partition("-")
        try:
            smallest, largest = float(low), float(high if dash else low)
        except ValueError:
            self.fail(f"{value!r} is neither a size like 0.5 nor a range like 0.25-2", param, ctx)
        return {"autoscaling_limit_min_cu": smallest, "autoscaling_limit_max_cu": largest}
