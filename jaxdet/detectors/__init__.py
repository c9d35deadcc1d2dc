"""Whole detectors: network, targets, losses and predictions."""
