"""`cloister config`: what an organization's projects are, as a file that a team keeps in git (`docs/configuration.md`).

`nouns.py` says what can be written; `parsing.py` and `printing.py` go from text to that and back; `planning.py` compares
what is wanted with what is there, `rules.py` says which plans are dangerous. These are pure. `platform.py` asks the API
what is there, `applying.py` has it changed, `commits.py` asks git. The platform is the only state there is: nothing is
kept here between two runs (`docs/adr/0042-configuration.md`).
"""
