"""Who asks (`keys.py`, `principals.py`), what may be done (`permissions.py`), and the decision (`decisions.py`).

The rules are `policies/*.cedar`. `bootstrap.py` makes the first account.
"""
