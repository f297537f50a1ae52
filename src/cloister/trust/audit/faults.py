"""What can be wrong with the log: the words of a verdict."""

from enum import StrEnum


class Fault(StrEnum):
    """What is wrong with the first row that does not fit."""

    EDITED = "edited"
    """Its text or its hash is not what was appended."""
    DELETED = "deleted"
    """It is not there, and later ones are."""
    REORDERED = "reordered"
    """Another row of the log stands in its place."""
    TRUNCATED = "truncated"
    """The log ends before its head."""
    ADDED = "added"
    """It stands behind the head: not written by `audit_append`."""
    MISFILED = "misfiled"
    """Its text is intact, but a column derived from it, by which events are found, says something else."""
    REPLACED = "personal part replaced"
    """Its text is intact, but what is personal in it is neither what was appended nor erased."""
    ERASED = "personal part erased in silence"
    """Its text is intact, what is personal in it was erased, and no event says so."""
    BACK = "personal part back"
    """An event says that what is personal in it was erased, and it is there."""
    MISTOLD = "not what was erased"
    """It says how many events were erased, and those that are erased are not they. Nobody knows any more which were meant."""
    PRUNED = "pruned in silence"
    """It is not there, nor are those before it, and no event says that they went."""
    UNPROVEN = "not what was pruned"
    """The hashes that stay of what went are not those that the event says."""
    EARLY = "pruned too early"
    """It is the first that is there, and it is younger than those before it had to be."""
    HEAD = "head"
    """Every row fits, but the head has another hash."""
    ROLLED_BACK = "rolled back"
    """The log does not contain a head that was noted earlier, or does not begin with a tree that was signed: it was
    rewritten or rolled back, at this event or before it."""
