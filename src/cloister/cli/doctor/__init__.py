"""`cloister doctor`: whether this host is fit, and whether what we say about this platform is true.

A check is a function from a `Subject` to findings: it gathers facts and hands them to pure functions that decide. A
check that cannot be made is a failure, never a pass (`checks.py` sees to that). `command.py` is the command; each other
file holds the checks about one thing.
"""
