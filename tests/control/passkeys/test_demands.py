"""Who must show a passkey."""

from itertools import product
from uuid import UUID

import pytest

from cloister.control.passkeys.demands import Demand, decide
from cloister.trust.access.principals import Holder, Principal


@pytest.mark.parametrize(("holder", "has", "required", "always"), list(product(Holder, *[[False, True]] * 3)))
def test_the_whole_rule(holder: Holder, has: bool, required: bool, always: bool) -> None:
    principal = Principal(UUID(int=1), 1, "", "", {}, holder=holder)
    found = decide(principal, has_passkey=has, is_required=required, always=always)
    if holder is Holder.PERSON and has:
        assert found is Demand.A_PASSKEY
    elif required or always:
        assert found is (Demand.A_REGISTRATION if holder is Holder.PERSON else Demand.A_PERSON)
    else:
        assert found is Demand.NOTHING


def test_who_was_let_so_far_because_of_one_does_not_get_further_without() -> None:
    principal = Principal(UUID(int=1), 1, "", "", {}, with_passkey=True)
    assert decide(principal, has_passkey=False, is_required=False, always=False) is Demand.A_REGISTRATION
