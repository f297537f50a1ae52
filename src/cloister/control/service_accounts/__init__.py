"""Service accounts: what a machine is and may in an organization, whichever of its keys it shows.

A key of theirs is an organization's key (`trust/access/keys`), so whatever is refused to those is refused to it: it decides about
nobody's access to data and asks for none, governs no people, makes no keys. `service` has the verbs, `keeper` notices those that
nobody answers for any more, `store` has the rows.
"""
