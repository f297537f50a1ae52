"""`cloister alerts`: what the sentinel found, whom it tells, and what to do."""
