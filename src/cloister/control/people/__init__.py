"""People who log in at an issuer (OpenID Connect), and what their groups there give them here.

`logins` begins a login and finishes it, `issuers` has the verbs on issuers, groups and accounts. `asking` speaks with an
issuer; what its answers are worth is decided in `protocol/openid`. `roles` decides, purely, what groups give; `store` has the
rows.
"""
