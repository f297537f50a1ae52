"""Timelines: where the data of branches is, inside a project's open volume, and how one becomes another.

layout.py     where everything is; built aside and renamed into place
tree.py       root's hands in a directory that a tenant writes
clone.py      a cluster's files become another cluster's, by reflink
control.py    what a cluster says of itself (`global/pg_control`)
wal.py        places in the log and names of its segments; pure
"""
