"""The mathematics of a transparency log, pure: trees as in RFC 9162, checkpoints as signed notes, tiles by their names.

`tree.py` hashes and proves, `notes.py` reads and writes what is signed, `tiles.py` cuts a tree into files. Nothing here
knows what an entry means; who signs, and when, is decided in `trust/`.
"""
