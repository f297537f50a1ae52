"""Samples, percentiles, and how a result is shown. Times in milliseconds."""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """One thing measured n times."""

    name: str
    unit: str
    values: list[float]

    def percentile(self, percent: float) -> float:
        """Nearest rank: a value that was really measured."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100).__int__() - 1))]

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.values),
            "p50": round(self.p50, 3),
            "p95": round(self.percentile(95), 3),
            "p99": round(self.percentile(99), 3),
            "min": round(min(self.values), 3),
            "max": round(max(self.values), 3),
        }


@dataclass(slots=True)
class Result:
    """What one benchmark found: its series, and ratios between their medians."""

    name: str
    series: list[Series] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """What the figures hold for: sizes, settings, counts that are not times."""

    def add(self, name: str, values: list[float], unit: str = "ms") -> Series:
        series = Series(name, unit, values)
        self.series.append(series)
        return series

    def ratio(self, name: str, ours: Series, theirs: Series) -> None:
        """Ours over theirs, by medians. For pairs measured side by side, by the median of the pairs' ratios."""
        if len(ours.values) == len(theirs.values):
            pairs = [a / b for a, b in zip(ours.values, theirs.values, strict=True) if b]
            self.ratios[name] = round(statistics.median(pairs), 3)
        else:
            self.ratios[name] = round(ours.p50 / theirs.p50, 3)

    def document(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "series": [series.summary() for series in self.series],
            "ratios": self.ratios,
            "facts": self.facts,
        }

    def table(self) -> str:
        width = max([len(series.name) for series in self.series] + [9])
        lines = [f"{self.name}", f"  {'':{width}}  {'n':>5} {'p50':>10} {'p95':>10} {'p99':>10}"]
        for series in self.series:
            one = series.summary()
            lines.append(
                f"  {series.name:{width}}  {one['n']:>5} {one['p50']:>10.2f} {one['p95']:>10.2f} {one['p99']:>10.2f}"
                f"  {series.unit}",
            )
        lines += [f"  {name}: {value:g}" for name, value in self.ratios.items()]
        lines += [f"  {name}: {value}" for name, value in self.facts.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the figures were measured."""

    kernel: str
    cpus: int
    cpu: str
    memory_gib: float
    python: str
    file_system: str

    @classmethod
    def here(cls, directory: Path) -> "Machine":
        cpu = next(
            (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")),
            platform.machine(),
        )  # fmt: skip
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        at = max((m for m in mounts if str(directory.resolve()).startswith(m[1])), key=lambda m: len(m[1]))
        return cls(
            kernel=platform.release(),
            cpus=os.cpu_count() or 0,
            cpu=cpu,
            memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3, 1),
            python=platform.python_version(),
            file_system=at[2],
        )

    def document(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def stopwatch(into: list[float]) -> Iterator[None]:
    """Append the block's duration in milliseconds."""
    started = time.perf_counter()
    yield
    into.append((time.perf_counter() - started) * 1e3)


def write_json(path: Path, machine: Machine, versions: dict[str, str], results: list[Result]) -> None:
    path.write_text(
        json.dumps(
            {"machine": machine.document(), "versions": versions, "results": [each.document() for each in results]},
            indent=2,
        )
        + "\n",
    )
