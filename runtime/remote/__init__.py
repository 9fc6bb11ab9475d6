"""Poses by a server, for streams as for pictures."""
