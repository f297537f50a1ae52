"""The sentinel: reads the audit log as it grows, and says what should not be so.

`rules/` says what that is, in Sigma's form; `rules.py` reads it, `conditions.py` matches one event, `correlations.py` and
`baselines.py` remember several, `detector.py` puts them together. All of that is pure: events in, alarms out. `watch.py`
follows the log, `store.py` keeps findings, `channels.py` and `delivery.py` tell people (docs/adr/0023-sentinel.md).

What must stay true: it reads and tells, and changes nothing of a tenant's; whatever an attacker sends, memory is bounded.
"""
