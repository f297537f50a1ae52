"""What a cluster is asked to hear whether it is whole, and what is made of its answer; that PostgreSQL understands it is seen in `backups/test_backups_for_real.py`."""

import pytest

from cloister.base.errors import InternalError
from cloister.node.timelines import checking

TOLD = """
PostgreSQL stand-alone backend 18.6
backend> \t 1: looked_at  (typeid = 20, len = 8, typmod = -1, byval = t)
  ----
   1: looked_at = "117"  (typeid = 20, len = 8, typmod = -1, byval = t)
  ----
backend> \t 1: damaged  (typeid = 25, len = -1, typmod = -1, byval = f)
  ----
   1: damaged = "16401 XX001"  (typeid = 25, len = -1, typmod = -1, byval = f)
  ----
   1: damaged = "16405 XX002"  (typeid = 25, len = -1, typmod = -1, byval = f)
  ----
"""


def test_how_many_were_looked_at_and_which_are_damaged() -> None:
    assert checking.answer(TOLD) == checking.Answer(117, [(16401, "XX001"), (16405, "XX002")])


def test_who_says_nothing_is_not_taken_for_whole() -> None:
    with pytest.raises(InternalError, match="said nothing"):
        checking.answer("backend> ")


def test_each_question_is_a_line_and_names_nothing_of_a_tenant() -> None:
    said = checking.questions("0f" * 8).decode()
    assert all(line.endswith(";") for line in said.splitlines())
    assert "heapallindexed" not in said
