"""Passkeys: made, removed, and shown for one privileged act at a time.

`proofs` is what the front door asks before a privileged act; `service` has the verbs on passkeys and on what an organization
demands; `recovery` is for who has lost theirs. `demands` decides, purely, who must show one. What an authenticator's words are worth is `protocol/webauthn`.
"""
