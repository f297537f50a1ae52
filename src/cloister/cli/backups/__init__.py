"""`cloister backups`: projects' history in another place, and back from there."""
