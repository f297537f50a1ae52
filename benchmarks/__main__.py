"""`python -m benchmarks NAME… [--json FILE]`: run benchmarks one after the other and print their tables."""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.baselines import BIN
from benchmarks.measure import Machine, Result, write_json
from cloister import __version__

NAMES = (
    "wake",
    "connect",
    "throughput",
    "sql",
    "refusals",
    "pooler",
    "create",
    "branch",
    "sharing",
    "encryption",
    "reencryption",
    "density",
    "audit",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    machine = Machine.here(Path(tempfile.gettempdir()))
    versions = {
        "cloister": __version__,
        "postgres": _said(str(BIN / "postgres"), "--version"),
        "pgbouncer": _said("pgbouncer", "--version"),
        "pgbench": _said("pgbench", "--version"),
    }
    print(f"{machine.cpus} × {machine.cpu}, {machine.memory_gib} GiB, Linux {machine.kernel}, {machine.file_system}")
    print("; ".join(versions.values()), "\n", flush=True)
    results: list[Result] = []
    for name in options.names or NAMES:
        print(f"… {name}", file=sys.stderr, flush=True)
        results.append(importlib.import_module(f"benchmarks.{name}").run())
        print(results[-1].table(), "\n", flush=True)
        if options.json:
            write_json(options.json, machine, versions, results)
    return 0


def _said(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()[0]
    except (OSError, IndexError):
        return f"{words[0]}: not found"


if __name__ == "__main__":
    raise SystemExit(main())
