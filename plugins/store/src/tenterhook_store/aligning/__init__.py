"""Two runs as one: which row of one is of the same characters as which row of the other."""
