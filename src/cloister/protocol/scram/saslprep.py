"""SASLprep (RFC 4013): the one spelling of a password that many keyboards can type.

PostgreSQL uses the password's bytes unchanged where the profile refuses it, so that any password works; so do we.
"""

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def normalised(password: str) -> bytes:
    """The bytes that go into PBKDF2."""
    if password.isascii():
        return password.encode()
    prepared = _prepare(password)
    return (password if prepared is None else prepared).encode()


def _prepare(text: str) -> str | None:
    """RFC 4013 §2; None where the text is not allowed."""
    # (2.1) Map: other spaces to a space, "commonly mapped to nothing" to nothing.
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    # (2.2) Normalise with the Unicode version that the tables were made from.
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    # (2.3, 2.5) Prohibited output, unassigned code points; an empty result is no password.
    if not prepared or any(forbids(char) for char in prepared for forbids in _PROHIBITED):
        return None
    # (2.4) Bidirectional text: all right-to-left, at both ends, or none of it.
    if any(stringprep.in_table_d1(char) for char in prepared):
        if any(stringprep.in_table_d2(char) for char in prepared):
            return None
        if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
            return None
    return prepared
