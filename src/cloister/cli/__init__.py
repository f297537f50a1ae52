"""The command `cloister`: a client of the HTTP API, and the operator's handle on the platform of this machine.

A file per noun; `root.py` names them all and imports one only when it is asked for. Nothing here decides about tenants:
client commands ask the API, platform commands ask `app/`. What must stay true: a person never sees a traceback, a
failure is one line on stderr, and the exit code is 0 (done), 1 (refused or failed) or 2 (wrong usage).
"""

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from cloister.base.errors import CloisterError
from cloister.cli.failure import CommandError

DEBUG_VARIABLE = "CLOISTER_DEBUG"
"""Set to anything, it shows the traceback of an internal error."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs one command and exits."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    from cloister.cli.root import root  # noqa: PLC0415 - a broken module must fail inside the net below

    try:
        outcome = root.main(args=list(arguments), prog_name="cloister", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted")
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough. The interpreter flushes stdout once more at exit, so it
        # gets somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CommandError, click.ClickException) as error:
        return _fail(str(error))
    except CloisterError as error:
        return _fail(error.public)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _fail(
            f"internal error, {type(error).__name__}: {error}. Please report it; {DEBUG_VARIABLE}=1 shows where it happened"
        )
    return outcome if isinstance(outcome, int) else 0


def _fail(message: str) -> int:
    one_line = " ".join(message.split()) or "failed"
    with contextlib.suppress(OSError):  # where stderr is gone too, the exit code still tells
        click.echo(f"cloister: {one_line}", err=True)
    return 1
