"""Values on their way into a column of type jsonb, which the driver takes as text."""

import msgspec


def jsonb(value: object) -> str:
    return msgspec.json.encode(value).decode()
