"""Other issuers' key sets: whose tokens open which branches as which roles.

`service` has the verbs for the API, `keys` tells the gateways and asks issuers again; `store` has the rows. What may be
fetched is in `trust/fetching`, what a token is worth in `protocol/tokens`.
"""
