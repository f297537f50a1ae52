"""What an operator can do about a finding, beside looking at it."""
