"""Who asks (`principals.py`), what may be done (`permissions.py`), and the decision (`decisions.py`)."""
