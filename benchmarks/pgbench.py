"""Running pgbench and reading what it says."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_LATENCY: Final = re.compile(r"^latency average = ([0-9.]+) ms", re.MULTILINE)


def initialise(environment: dict[str, str], scale: int) -> None:
    _pgbench(environment, "-i", "-q", "-s", str(scale), "-I", "dtgvp")


def throughput(environment: dict[str, str], *words: str, clients: int, seconds: int) -> tuple[float, float]:
    """Transactions per second and the mean latency in milliseconds."""
    said = _pgbench(environment, *words, "-n", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds))
    tps, latency = _TPS.search(said), _LATENCY.search(said)
    assert tps is not None, said
    assert latency is not None, said
    return float(tps[1]), float(latency[1])


def latencies(environment: dict[str, str], directory: Path, *words: str, seconds: int) -> list[float]:
    """Every transaction's latency in milliseconds, with one client."""
    for old in directory.glob("log.*"):
        old.unlink()
    _pgbench(environment, *words, "-n", "-c", "1", "-T", str(seconds), "-l", f"--log-prefix={directory}/log")
    return [int(line.split()[2]) / 1e3 for log in directory.glob("log.*") for line in log.read_text().splitlines()]


def _pgbench(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        ["pgbench", *words],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"pgbench {' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout
