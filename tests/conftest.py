"""Fixtures that every test may use; each lives in a plugin of its own, named after what it gives."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that plugins are found as `tests.fix_…`

pytest_plugins = ["tests.fix_database", "tests.fix_gateway", "tests.fix_computes"]

# A deadline for an example is an assertion about time, and the machine may be busy.
settings.register_profile("cloister", deadline=None)
settings.load_profile("cloister")
