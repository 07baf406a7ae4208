"""The commands of the command line, one module each: a function that takes parsed arguments and returns 0, 1 or 2."""
