"""What is wrong with bytes from a store."""


class BackupError(Exception):
    """The text says what, for the operator; nothing of what was read is in it."""
