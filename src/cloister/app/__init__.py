"""The wiring: settings → objects → processes. The only folder that knows every other.

`supervisor.py` starts and watches the processes; `process.py` is how each of them begins; one file per process kind
builds its objects and runs them. Nothing here decides anything about a tenant.
"""
