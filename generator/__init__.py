"""The generator appends random numbers, one a line, to a data file. Standard library only."""
