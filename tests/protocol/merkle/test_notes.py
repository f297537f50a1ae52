"""A note is believed only if the key that must have signed it has, over exactly these bytes."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.protocol.merkle.notes import Checkpoint, NoteError, VerifierKey, split

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = VerifierKey("cloister/0/audit", PRIVATE.public_key().public_bytes_raw())
CHECKPOINT = Checkpoint(KEY.name, 17, bytes(range(32)))
NOTE = KEY.note(CHECKPOINT.text, PRIVATE.sign(CHECKPOINT.text.encode()))
WITNESS = "— another.example/witness " + base64.b64encode(bytes(72)).decode() + "\n"


def signed(text: str) -> str:
    return KEY.note(text, PRIVATE.sign(text.encode()))


def test_a_note_opens_with_its_key_also_when_witnesses_have_signed_it() -> None:
    assert KEY.opened(NOTE) == CHECKPOINT
    assert KEY.opened(NOTE + WITNESS) == CHECKPOINT
    assert NOTE.splitlines()[:4] == [KEY.name, "17", base64.b64encode(bytes(range(32))).decode(), ""]


def test_any_changed_character_is_refused() -> None:
    for position, character in enumerate(NOTE):
        changed = NOTE[:position] + ("B" if character != "B" else "C") + NOTE[position + 1 :]
        with pytest.raises(NoteError):
            KEY.opened(changed)


@pytest.mark.parametrize(
    "note",
    [
        "",
        CHECKPOINT.text,
        CHECKPOINT.text + "\n" + WITNESS,
        NOTE.replace("\n\n", "\n"),
        NOTE.rstrip("\n"),
        NOTE + "\n",
        signed(f"{KEY.name}\n017\n{base64.b64encode(bytes(32)).decode()}\n"),
        signed(f"{KEY.name}\n-1\n{base64.b64encode(bytes(32)).decode()}\n"),
        signed(f"{KEY.name}\n1\n{base64.b64encode(bytes(31)).decode()}\n"),
        signed(Checkpoint("cloister/1/audit", 1, bytes(32)).text),
        signed("\n"),
    ],
)
def test_what_is_no_checkpoint_of_this_log_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        KEY.opened(note)


def test_another_key_of_the_same_name_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    key = VerifierKey(KEY.name, other.public_key().public_bytes_raw())
    with pytest.raises(NoteError, match="not signed"):
        key.opened(NOTE)


def test_a_key_is_written_down_and_read_back() -> None:
    assert VerifierKey.parse(str(KEY)) == KEY
    name, digits, rest = str(KEY).split("+", 2)
    other = "0" * 8 if digits != "0" * 8 else "1" * 8
    for text in ("", name, f"{name}+{other}+{rest}", f"{name}+{digits}+{rest[:-4]}", f"a b+{digits}+{rest}"):
        with pytest.raises(NoteError):
            VerifierKey.parse(text)


def test_notes_appended_to_one_file_are_told_apart() -> None:
    """However many empty lines, and whatever witnesses there are between them."""
    file = NOTE + "\n" + NOTE + WITNESS + NOTE
    assert [KEY.opened(note) for note in split(file)] == [CHECKPOINT] * 3
    assert split("") == split("\n") == []
