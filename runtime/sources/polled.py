"""What a source that can be polled offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sharpose.runtime.frames import Frame, Source

__all__ = ["PolledSource"]


class PolledSource(Source, Protocol):
    """A source that can be asked whether it has a frame, so that one loop serves many.

    To wait for the first of several, share one `threading.Event` among them: `source.notify = event.set`; then clear
    it, poll each, and wait for it only if none had a frame.

    Attributes:
        notify: Called from another thread whenever polling may find something new. It must not block.
    """

    notify: Callable[[], None]

    @property
    def ended(self) -> bool:
        """Whether no frame, and no error, will come any more."""
        ...

    def poll(self) -> Frame | None:
        """The next frame, or None if there is none now.

        Raises:
            SharposeError: what the source ended on; raised once, after its last frame was handed out.
        """
        ...
