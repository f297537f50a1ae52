"""What to do about a refusal: the API says which rule stands in the way, the command line which command gets past it."""

import contextlib
from collections.abc import Iterator
from typing import Final

from cloister.cli import output as out
from cloister.cli.api import ApiError

_ADVICE: Final = (
    ("cannot copy protected branch", "ask for it: cloister branches consent PROTECTED-BRANCH --to copy --reason WHY"),
    ("cannot unprotect branch without", "ask for it: cloister branches consent {branch} --to unprotect --reason WHY"),
    ("Protected branch cannot", "unprotect it first, if it may be lost: cloister branches unprotect {branch}"),
    ("protected branch", "unprotect it first, if it may be: cloister branches unprotect {branch}"),
    ("Default branch cannot", "make another one the default first: cloister branches set-default OTHER"),
    ("default branch", "make another one the default first: cloister branches set-default OTHER"),
    ("root branch", "only its project's deletion deletes it"),
    ("preserve_under_name is required", "add --preserve-under-name NAME"),
    ("has children", "`cloister branches tree` shows them: delete or move them first"),
    ("branch already exists", "choose another name, or see `cloister branches list`"),
)


@contextlib.contextmanager
def advised(branch: str | None) -> Iterator[None]:
    """Adds the next step to a refusal about `branch`, as it was named."""
    try:
        yield
    except ApiError as error:
        for words, advice in _ADVICE:
            if words in str(error):
                named = out.printable(branch) if branch else "BRANCH"
                raise ApiError(error.status, f"{error}; {advice.format(branch=named)}") from error
        raise
