"""One attempt at a source: a thread of its own opens it, reads it and closes it.

FFmpeg and OpenCV can hang in a call that nothing interrupts, and closing a container while another thread reads from it
crashes. So the thread that opened a source is the only one that touches it, and whoever has no patience left turns away
from that thread; it closes the source when the call returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from sharpose.errors import SharposeError, SourceError
from sharpose.runtime.frames import Frame, Source
from sharpose.runtime.sources.urls import redact_text

__all__ = ["Connection"]


class Connection:
    """Opens a source and hands its frames to `take`, in a daemon thread that starts at once.

    Args:
        name: What to call the source in errors.
        factory: Opens it.
        opened: Told, in the thread, once it is open; false: nobody wants it any more.
        take: Given each frame, in the thread; false: nobody wants more.
        done: Called, in the thread, at the end, when the source is closed again.

    Attributes:
        source: The open source; None before and after that.
        frames: Frames that `take` was given.
        failure: What it ended on, or None where the source simply ended.
        reason: Why it ended, without the source's name; complete when `ended`.
        ended: Whether the thread is through.
    """

    def __init__(
        self,
        name: str,
        factory: Callable[[], Source],
        *,
        opened: Callable[[Connection, Source], bool],
        take: Callable[[Connection, Frame], bool],
        done: Callable[[], None],
    ) -> None:
        self.source: Source | None = None
        self.frames = 0
        self.failure: SharposeError | None = None
        self.reason = "the stream ended"
        self.ended = False
        self._name = name
        self._factory = factory
        self._opened = opened
        self._take = take
        self._done = done
        self._thread = threading.Thread(target=self._run, name=f"source {name}", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end, but not longer than that."""
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        try:
            self._read()
        except SharposeError as error:
            self._fail(error)
        except Exception as error:  # a defect must not leave the loop waiting for ever
            self._fail(SourceError(f"{self._name}: unexpected {type(error).__name__}: {redact_text(str(error))}"))
        finally:
            self.ended = True
            self.source = None  # decoders hold megabytes
            self._done()

    def _read(self) -> None:
        source = self._factory()
        self.source = source
        try:
            if not self._opened(self, source):
                return
            frames = iter(source)
            try:
                for frame in frames:
                    self.frames += 1
                    if not self._take(self, frame):
                        break
            finally:
                end = getattr(frames, "close", None)
                if end is not None:  # a generator notes its warnings when it is closed
                    end()
                self.reason = getattr(source, "end_reason", None) or self.reason
        finally:
            source.close()

    def _fail(self, error: SharposeError) -> None:
        self.failure = error
        self.reason = str(error).removeprefix(f"{self._name}: ")
