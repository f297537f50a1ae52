"""A project's history in another place: sealed by the agent, put into the operator's bucket by the courier.

`commands.py` is what the courier can be asked. What an object is called, how it is sealed, and what the list of a base's files looks
like is `protocol/backups`.
"""
