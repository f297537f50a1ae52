"""How many files a process may hold open."""

import contextlib
import resource


def raise_to_the_most() -> int:
    """The soft limit, 1024 almost everywhere for the sake of select(), becomes the hard one, which whoever runs the process has
    set. What it is then."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
