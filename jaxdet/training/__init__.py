"""Optimiser, step, loop and the files of a run."""
