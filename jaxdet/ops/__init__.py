"""Boxes, anchors, matching, NMS and convolutions: pure functions of arrays."""
