"""A provider for Terraform: the program that it starts, which turns what it plans into calls of the API.

From the outside in: `plugin.py` is found and proves itself to Terraform, `rpc.py` speaks gRPC with it, `provider.py` answers its
questions, `resources.py` says what there is and which calls make it, `sources.py` what can be looked up, `platform.py` makes the calls. `messages.py`, `schema.py`
and `values.py` are the words of the protocol (Terraform's plugin protocol, version 6).

What must stay true: no password and no key is in what is given to Terraform to keep; and a change names its plan in the audit log.
"""
