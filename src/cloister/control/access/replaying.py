"""What was recorded, as people read it: each statement once, with what came of it.

A recording has what was asked before it was sent, and what came of it afterwards, under the same number. Where the second is
missing, the compute may have executed it, or part of it, or nothing: while the session goes on it is `asked`, after that
`unknown`. An execution that is asked names a portal; its text was asked before, when it was prepared. Pure.
"""

from collections.abc import Sequence

import msgspec

from cloister.base.directory import ASKED, BIND, PREPARE, Spoken

UNKNOWN = "unknown"
EXTENDED = "extended"


def told(said: Sequence[Spoken], *, is_over: bool) -> list[Spoken]:
    """In the order in which they were asked; what nobody asked (the commit that a Sync makes) where it was said."""
    found: dict[int, Spoken] = {}
    prepared: dict[str, Spoken] = {}
    portals: dict[str, str] = {}
    for place, it in enumerate(said):
        if it.outcome != ASKED:
            found[it.number or -place - 1] = it
        elif it.kind == PREPARE:
            prepared[it.name] = it
        elif it.kind == BIND:
            portals[it.name] = it.source
        else:
            asked = it
            if it.kind == EXTENDED and (text := prepared.get(portals.get(it.name, ""))) is not None:
                asked = msgspec.structs.replace(it, text=text.text, text_bytes=text.text_bytes, digest=text.digest)
            found[it.number] = msgspec.structs.replace(asked, outcome=UNKNOWN if is_over else ASKED)
    return list(found.values())


def is_statement(it: Spoken) -> bool:
    """Whether it counts as one: each that is to be executed is asked once."""
    return it.outcome == ASKED and it.kind not in (PREPARE, BIND)
