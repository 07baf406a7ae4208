"""Vidette beside what a user would write or pick instead: same streams, same model file, same cores, taking turns."""
