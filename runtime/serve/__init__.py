"""The run in a browser: a page with the live picture and the run's numbers, and what monitoring asks for."""

from sharpose.runtime.serve.server import ServeServer
from sharpose.runtime.serve.sink import ServeSink

__all__ = ["ServeServer", "ServeSink"]
