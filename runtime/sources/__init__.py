"""Where frames come from."""

from sharpose.cli import FOREVER
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.sources.open import open_source
from sharpose.runtime.sources.urls import redact_url

__all__ = ["FOREVER", "LiveSource", "SourceOptions", "open_source", "redact_url"]
