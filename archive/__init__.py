"""Many videos: `sharpose-archive`."""
