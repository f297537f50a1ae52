"""Access reviews: every right in an organization is kept or taken back by somebody, again and again."""
