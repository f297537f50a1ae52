"""What a check says."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cloister.base.settings import Settings


class Level(StrEnum):
    OK = "ok"
    """Looked at, and as it must be."""
    WARNING = "warning"
    """Works, but something is weaker than it could be."""
    FAIL = "FAIL"
    """Does not work, is not safe, or could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing, and what to do about it."""

    level: Level
    about: str
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: this host, and the platform in `state_dir` if there is one."""

    state_dir: Path
    settings: Settings | None
    """None: no platform has been started here yet."""

    @property
    def platform(self) -> Settings:
        assert self.settings is not None
        return self.settings


def ok(about: str, seen: str) -> Finding:
    return Finding(Level.OK, about, seen)


def warning(about: str, seen: str, advice: str) -> Finding:
    return Finding(Level.WARNING, about, seen, advice)


def fail(about: str, seen: str, advice: str) -> Finding:
    return Finding(Level.FAIL, about, seen, advice)
