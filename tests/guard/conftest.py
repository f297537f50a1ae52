"""The C estimator, built with the compiler's sanitizers, on a pipe."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from guard import build

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Answer:
    bits: float
    characters: int
    kinds: int
    is_enough: bool
    why: str


@dataclass(frozen=True, slots=True)
class Estimates:
    requests: IO[bytes]
    answers: IO[bytes]

    def __call__(self, password: str, context: tuple[str, ...] = (), policy: str = "strict") -> Answer:
        raw = password.encode("utf-8", "surrogateescape")
        names = [name.encode("utf-8", "surrogateescape") for name in context]
        self.requests.write(b"%s %d %d\n%s" % (policy.encode(), len(raw), len(names), raw))
        for name in names:
            self.requests.write(b"%d\n%s" % (len(name), name))
        self.requests.flush()
        line = self.answers.readline().decode()
        assert line, "the estimator ended"
        bits, characters, kinds, is_enough, why = line.rstrip("\n").split(" ", 4)
        return Answer(float(bits), int(characters), int(kinds), is_enough == "1", why)


@pytest.fixture(scope="session")
def c_estimate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estimates]:
    scratch = tmp_path_factory.mktemp("estimates")
    build.write_words(scratch)
    program = scratch / "estimates"
    flags = [flag for flag in build.FLAGS if flag not in ("-shared", "-D_FORTIFY_SOURCE=2")]
    subprocess.run(
        [
            *("gcc", *flags, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *("-I", scratch, "-I", build.SOURCES, HERE / "estimates.c", build.SOURCES / "estimate.c"),
            *("-o", program, "-lm"),
        ],
        check=True,
        timeout=120,
    )
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Estimates(process.stdin, process.stdout)
        process.stdin.close()
        assert process.wait(timeout=10) == 0, "a sanitizer found something"
