"""A client of a model repository's model `sharpose`, over KServe's v2 protocol: HTTP, or gRPC by the extra."""

DEFAULT_TIMEOUT = 10.0
"""Seconds for a request: connecting, sending, waiting and reading."""
DEFAULT_TRIES = 10
"""Tries of a request that a server which is gone or fails gets: with the waits between, about half a minute."""
