"""What is in a project's history is in the operator's store, too: sent by itself, read back by itself, restored by somebody's word.

`keeper.py` decides when, and asks the node agent, `platform.py` of the control database itself, `parting.py` when the platform stops; `service.py` has the verbs, `operations.py` the machine that brings a whole project
back. A branch is brought back by the machine that makes every branch (`branches/making.py`): it is a copy, with all that a copy of
a protected branch is held to. No key and no byte of content passes here. docs/adr/0056-backups.md has the reasons.
"""
