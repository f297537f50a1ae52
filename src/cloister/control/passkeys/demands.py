"""Who must show a passkey for a privileged act. Pure: `decide` is the whole rule."""

from enum import Enum, auto

from cloister.trust.access.principals import Holder, Principal


class Demand(Enum):
    NOTHING = auto()
    """They have none, and nobody asks for one."""
    A_PASSKEY = auto()
    A_PERSON = auto()
    """The organization demands a passkey, and a machine's key has nobody who could show one."""
    A_REGISTRATION = auto()
    """One is demanded of somebody who has none yet."""


def decide(principal: Principal, *, has_passkey: bool, is_required: bool, always: bool) -> Demand:
    """`is_required`: by the organization in whose name it is done. `always`: of this act, whoever does it. A principal that was
    let so far because they would show one (`with_passkey`) is not let further without."""
    if principal.holder is not Holder.PERSON:
        return Demand.A_PERSON if is_required or always else Demand.NOTHING
    if has_passkey:
        return Demand.A_PASSKEY
    return Demand.A_REGISTRATION if is_required or always or principal.with_passkey else Demand.NOTHING
