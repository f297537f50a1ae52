"""`cloister mcp`: what an AI agent may do with databases, as tools of the Model Context Protocol.

An agent follows text that strangers wrote: the rows it reads, a page it fetched. So its tools are not trusted to ask for
the right thing; what they can do is bounded here. `bench.py` holds the bounds, `sql.py` sends a statement, `server.py` is
the tools as a model sees them, `command.py` is the command. Only the last two know the protocol's library, which is an
extra of the package.
"""
