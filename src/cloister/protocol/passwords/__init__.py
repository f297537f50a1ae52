"""How many bits a password has: the same numbers as the server's guard comes to.

`guard/src/estimate.c` is the other half, line by line; `guard/vectors.jsonl` holds both to the same results. What is
counted and why: docs/passwords.md.
"""

from cloister.protocol.passwords.estimate import (
    BITS_REQUIRED,
    CHARACTERS_MAX,
    CHARACTERS_REQUIRED,
    Estimate,
    Policy,
    estimate,
    estimate_prepared,
)
from cloister.protocol.passwords.patterns import Kind

__all__ = [
    "BITS_REQUIRED",
    "CHARACTERS_MAX",
    "CHARACTERS_REQUIRED",
    "Estimate",
    "Kind",
    "Policy",
    "estimate",
    "estimate_prepared",
]
