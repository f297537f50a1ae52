"""The directory that a project's doors are put into: made by root, so that it is what it was when it is bound."""

import contextlib
import os
from pathlib import Path

from cloister.base.errors import PreconditionError
from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Paths


def make_place(paths: Paths, project_id: str) -> Path:
    """For the relay to open doors in. Twice is once. Where the relay's user does not exist it stays root's, and nobody
    opens any."""
    place = paths.egress_doors / project_id
    with contextlib.suppress(FileExistsError):
        paths.egress_doors.mkdir(mode=0o755)
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o711)
    place.chmod(0o711)
    with contextlib.suppress(PreconditionError):
        os.chown(place, uid_of(Service.EGRESS), gid_of(Service.EGRESS))
    return place


def remove_place(paths: Paths, project_id: str) -> None:
    """Once the relay has taken its doors out of it. Until then, and when it is gone, this does nothing."""
    with contextlib.suppress(OSError):
        (paths.egress_doors / project_id).rmdir()
