"""What a project, a branch or a snapshot may be called: anything a person can write. It never becomes a path or a word of a
command; that is what ids are for."""

from typing import Final

from cloister.base.errors import BadRequestError

NAME_BYTES_MAX: Final = 256


def checked_name(what: str, name: str) -> str:
    """Raises BadRequestError."""
    if not name or "\0" in name or len(name.encode(errors="surrogatepass")) > NAME_BYTES_MAX or not _is_text(name):
        raise BadRequestError(f"{what} {name[:80]!r}", public=f"{what} must have 1 to {NAME_BYTES_MAX} bytes of UTF-8")
    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
