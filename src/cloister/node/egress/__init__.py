"""The ways out of computes: doors that the kernel shows them, and the process that walks through for them.

`commands.py` is what the API says; `relay.py` keeps the doors; `passage.py` is one connection through one of them;
`outside.py` is how the other end is found, checked and spoken to. docs/adr/0025-egress.md has the reasons.
"""
