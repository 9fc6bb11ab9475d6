"""Annotated pictures: regions, boxes, skeletons, labels and the status line."""
