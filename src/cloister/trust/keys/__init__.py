"""Keys: one per project and purpose, wrapped by a root key, handed out by one process to one caller.

`broker.py` is that process's server, `client.py` the way to ask it, `commands.py` what can be asked, `providers/` where
root keys come from, `store.py` the rows of wrapped keys, `memory.py` how a secret is held and let go.
"""
