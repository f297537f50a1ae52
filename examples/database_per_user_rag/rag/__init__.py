"""Ask your documents: an application whose every user has a database of their own."""
