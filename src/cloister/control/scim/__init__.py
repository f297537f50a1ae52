"""An organization's directory: what its identity provider says of people (SCIM), and what follows from it.

`service` has the verbs, `store` the rows, `model` the words. It takes away and gives back what it took; it never gives what
somebody did not have: a role comes from a person's hand, or from a group at a login (`control/people`). docs/adr/0046-scim.md has the
reasons.
"""
