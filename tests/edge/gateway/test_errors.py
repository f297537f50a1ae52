"""Every kind of refusal has a SQLSTATE, and no refusal says more than it should."""

import re

from cloister.base.errors import InternalError, Kind
from cloister.edge.gateway.errors import SQLSTATE, bad_password, of_error


def test_every_kind_has_a_sqlstate() -> None:
    assert set(SQLSTATE) == set(Kind)
    assert all(re.fullmatch(r"[0-9A-Z]{5}", sqlstate) for sqlstate in SQLSTATE.values())


def test_the_detail_of_an_error_is_not_told() -> None:
    refusal = of_error(InternalError("/var/lib/cloister/secret"), "not_served")
    assert refusal.public == "internal error"
    assert "secret" in str(refusal)


def test_one_text_for_every_failed_proof() -> None:
    assert bad_password("ada", "no such role").public == bad_password("ada", "wrong").public
