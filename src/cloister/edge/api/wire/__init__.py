"""How things look from outside: msgspec structs in Neon's shapes, a file per noun, and the functions that make them.

Required fields of Neon's API have no default and are always sent; optional ones that are None are left out. A value that
Neon bills or measures and Cloister does not is 0.
"""
