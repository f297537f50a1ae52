"""A supervisor that was killed and not started again: nothing is pretended, and the next start takes over."""

import json
import os
import signal

import pytest

from tests.instance import Instance

pytestmark = pytest.mark.root


def test_down_does_not_claim_what_it_cannot_know(mortal: Instance) -> None:
    """`down` refuses while computes may be left; `up` takes them over with every row; then `down` ends all."""
    tenant = mortal.create_project("orphan")
    assert tenant.psql("CREATE TABLE t AS SELECT 3 AS n; SELECT n FROM t").stdout == "3\n"
    os.kill(json.loads(mortal.paths.status.read_text())["pid"], signal.SIGKILL)
    said = mortal.cloister("down", "--state-dir", str(mortal.state_dir), check=False)
    assert said.returncode == 1
    assert "the supervisor is gone" in said.stderr
    mortal.up()
    assert tenant.psql("SELECT n FROM t").stdout == "3\n"
    mortal.down()
    assert mortal.descendants() == []
