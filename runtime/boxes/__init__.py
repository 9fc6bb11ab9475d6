"""Where the people of a frame are: boxes from a file, a detector or the source."""
