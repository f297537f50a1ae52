"""The ledger of checked passwords, read: a verifier counts only if the server's guard vouched for it when it was stored.

Written by guard/src/ledger.c as a security label on the role, in the transaction that stored the verifier. What is not in
it came into the catalog past the check of passwords, however that was done, and lets nobody in.
"""

import hashlib


def is_vouched_for(verifier: str, label: str | None) -> bool:
    """Whether the label is that of exactly this verifier."""
    return label == "sha256:" + hashlib.sha256(verifier.encode()).hexdigest()
