"""Certificates of the front doors: from an authority of our own, or supplied by the operator.

`renewal.ensure` brings the files to where they must be and is all that a supervisor calls. `authority.py` issues,
`inspection.py` judges, `files.py` keeps.
"""

from cloister.trust.certificates.inspection import CertificateInfo, inspect
from cloister.trust.certificates.renewal import Current, Renewed, Supplied, ensure

__all__ = ["CertificateInfo", "Current", "Renewed", "Supplied", "ensure", "inspect"]
