"""Where frames come from."""

from sharpose.runtime.sources.open import open_source
from sharpose.runtime.sources.urls import redact_url

__all__ = ["open_source", "redact_url"]
