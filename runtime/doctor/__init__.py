"""`sharpose-doctor`: what this machine, or a server, can do."""
