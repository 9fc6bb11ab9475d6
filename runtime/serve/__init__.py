"""The run in a browser: a page with the live picture and the run's numbers, and what monitoring asks for."""

from sharpose.runtime.serve.server import Address, ServeServer, parse_address
from sharpose.runtime.serve.sink import ServeSink

__all__ = ["Address", "ServeServer", "ServeSink", "parse_address"]
