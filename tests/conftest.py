"""Fixtures that every test may use; each lives in a plugin of its own, named after what it gives."""

import gc
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that plugins are found as `tests.fix_…`

pytest_plugins = ["tests.fix_database", "tests.fix_gateway", "tests.fix_computes"]

# A deadline for an example is an assertion about time, and the machine may be busy.
settings.register_profile("cloister", deadline=None)
settings.load_profile("cloister")

# Python's 700 new objects are soon there: looking for cycles that often took a third of some files' time.
gc.set_threshold(20_000)


@pytest.hookimpl(tryfirst=True)  # before those that were not asked for are taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """scripts/test reads in the files which of them have tests for root: one that said it elsewhere would never run."""
    for item in items:
        if item.get_closest_marker("root") is not None and not _says_root(item.path):
            raise pytest.UsageError(
                f"{item.nodeid}: say pytest.mark.root in this file, where scripts/test looks for it"
            )


@cache
def _says_root(path: Path) -> bool:
    return path.name.startswith("test_") and "pytest.mark.root" in path.read_text()


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end, and the collector need not walk through it again and again.

    It still finds what a test leaves behind in a cycle, and what that did not close is an error as before."""
    gc.collect()
    gc.freeze()
