"""Backups as they lie in a bucket: what objects are called, how they are sealed, and what a base's list of files says. Pure.

- `keys.py`: names of objects
- `sealing.py`: sealed objects, and what is derived from a project's backup key
- `bases.py`: a base: its facts, its files and the pieces that they are made of
- `dumps.py`: a dump of the control database
- `errors.py`: what is wrong with what a store gives

What must stay true: whatever bytes a store gives, the outcome is a value or a BackupError, within bounded memory.
"""
