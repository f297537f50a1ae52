"""Access of people to a project's data: asked for, agreed to by somebody else, for a while, and recorded.

`model` has the states and what may follow what. `service` has the verbs of people, `guard` what the gateways ask (may this
role log in, record this session), `keeper` ends on time what must end. `sealing` is how a recording is kept. Nothing here
knows how a wire is observed: that is the gateway's.
"""
