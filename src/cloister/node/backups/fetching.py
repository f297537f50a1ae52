"""The files of a base, or of a dump, come out of the store: its lists one after the other, and of each the chunks side by side."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cloister.base.errors import UnprocessableError
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import side_by_side
from cloister.node.backups.sending import InThread
from cloister.protocol.backups.bases import Contents, Counted, Entry, Piece
from cloister.protocol.backups.errors import BackupError


class Listed(Counted, Protocol):
    @property
    def lists(self) -> Sequence[str]: ...


class Source(Protocol):
    """Raises UnprocessableError for what does not open, NotFoundError for what is not there."""

    async def list_of(self, chunk_id: str) -> bytes: ...
    async def chunk(self, chunk_id: str) -> bytes: ...


async def lay_files(what: str, listed: Listed, source: Source, laying: Laying, in_thread: InThread) -> None:
    """`what` is for messages. Raises UnprocessableError, NotFoundError."""
    contents = Contents()
    for list_id in listed.lists:
        entries = await entries_of(what, source, contents, list_id)
        try:
            await in_thread(partial(laying.make, entries))
        except FileExistsError as error:
            raise UnprocessableError(public=f"the backup's {what} lists something twice") from error
        places = _places(entries)

        async def lay(chunk_id: str, places: dict[str, list[tuple[str, Piece]]] = places) -> None:
            plain = await source.chunk(chunk_id)
            if any(piece.at + piece.length > len(plain) for _, piece in places[chunk_id]):
                raise UnprocessableError(public=f"the backup's {what} lists more of a chunk than there is")
            await in_thread(partial(laying.write, plain, places[chunk_id]))

        await side_by_side(places, lay)
    try:
        contents.end(listed)
    except BackupError as error:
        raise UnprocessableError(public=f"the backup's {what} {error}") from error


async def entries_of(what: str, source: Source, contents: Contents, chunk_id: str) -> list[Entry]:
    """Of one list. `contents` has read those before it."""
    plain = await source.list_of(chunk_id)
    try:
        return contents.read(plain)
    except BackupError as error:
        raise UnprocessableError(
            f"the {what}: {error}", public=f"in the store of backups, the {what} {error}"
        ) from error


def _places(entries: Sequence[Entry]) -> dict[str, list[tuple[str, Piece]]]:
    """By chunk, where parts of it go."""
    places = defaultdict(list)
    for entry in entries:
        for piece in entry.pieces:
            places[piece.chunk].append((entry.path, piece))
    return dict(places)
