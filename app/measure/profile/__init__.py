"""Profiling: what each stage of a frame's way costs, what binds, and which batch is best."""
