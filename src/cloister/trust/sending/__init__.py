"""Telling other machines: a signed POST over HTTPS, lines of syslog over TLS, and to which addresses either may go.

Alerts (`trust/sentinel`) and the audit log (`trust/audit/forwarder.py`) go out by these, and by nothing else.
"""
