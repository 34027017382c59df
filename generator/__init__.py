"""The generator appends random numbers, one per line, to a data file. Standard library only."""
