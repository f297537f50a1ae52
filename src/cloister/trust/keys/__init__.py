"""Keys: a root, a key per project, keys per purpose below it; handed out by one process to one caller.

`broker.py` is that process's server, `client.py` the way to ask it, `commands.py` what can be asked, `asking.py` who asks, as
the audit log has it. What then happens: `keeper.py` makes and hands out keys, `recordings.py` those of recordings,
`statements.py` those of statement logs, `rings.py` says of a project's keys whether they may be used and when they end,
`rotations.py` renews them; `platform.py` has the one of the control database's dumps. All of it stands on `store.py` (the rows), `envelopes.py` (what is in what), `rotation.py` (what a
rotation makes of it), `keystore.py` (the seals, without which what was erased stays erased) and `roots.py` with `providers/`
(where root keys are), asked with `patience.py`. `memory.py` is how a secret is held and let go, `notary.py` signs the audit
log's checkpoints.
"""
