"""The parts of an annotated picture: regions, boxes, skeletons, labels and the status line."""
