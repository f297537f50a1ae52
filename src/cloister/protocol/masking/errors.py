"""The one error of masking rules, and how much of a rule it repeats."""

from typing import Final

_SHOWN_CHARS: Final = 40
# Enough to find the place in one's own rule, too little to be a message of somebody else's.


class MaskingError(ValueError):
    """What a rule says is not done here. Its text is for whoever wrote the rule."""


def shown(text: str) -> str:
    """A short piece of what was given, in ASCII, quoted and escaped."""
    return ascii(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")
