"""Encrypting a project's data anew: asked for by a person or a policy, done by the node agent while the project works.

`service.py` takes the wish, `keeper.py` sees it through. Which key a volume has is said by its image and nobody else, so all
of it can be repeated.
"""
