"""A word for the tokens inside quotes."""
