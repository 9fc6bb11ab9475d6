"""The parts of a detector: letterboxing, the families of graphs that are understood, non-maximum suppression."""
