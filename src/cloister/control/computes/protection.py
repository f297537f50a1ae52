"""What the protection of its branch means for an endpoint: the words. `branches/protection.py` has the rest, and migration
0002 says the same in the control database."""

from typing import Final

from cloister.base.errors import UnprocessableError

CANNOT_DELETE_ENDPOINT: Final = "cannot delete endpoint of protected branch"
CANNOT_DISABLE_ENDPOINT: Final = "cannot disable endpoint of protected branch"
CANNOT_MOVE_ENDPOINT: Final = "cannot move endpoint from or to protected branch"


def refuse_endpoint(words: str, *, is_protected: bool) -> None:
    """For the endpoint of a branch: one of the words above. Raises UnprocessableError."""
    if is_protected:
        raise UnprocessableError(public=words)
