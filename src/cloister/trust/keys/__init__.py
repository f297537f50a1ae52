"""Keys: a root, a key per project, keys per purpose below it; handed out by one process to one caller.

`broker.py` is that process's server, `client.py` the way to ask it, `commands.py` what can be asked. What then happens is
`keeper.py`: over `store.py` (the rows), `envelopes.py` (what is in what), `rotation.py` (what a rotation makes of it),
`keystore.py` (the seals, without which an erased project stays erased) and `roots.py` with `providers/` (where root keys
are). `memory.py` is how a secret is held and let go, `notary.py` signs the audit log's checkpoints.
"""
