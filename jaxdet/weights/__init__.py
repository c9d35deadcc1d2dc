"""Checkpoints of other systems, without PyTorch."""
