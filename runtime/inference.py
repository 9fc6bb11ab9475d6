"""How the loop gets poses: it asks for those of frames, and takes them when they are there.

Engines of this process run all frames that were asked for together; `runtime/remote/in_flight.py` asks a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.result import Picture, PoseResult, StageTimings

if TYPE_CHECKING:
    from sharpose.runtime.sources.queue import FrameQueue

Item = TypeVar("Item")
"""What goes with a frame and is handed back with its poses."""

Answer: TypeAlias = PoseResult | Exception | None
"""A frame's poses; or why there are none; or None where it was dropped, or the user no longer waits for it."""


class Inference(Protocol[Item]):
    """Makes the poses of streams' frames, here or elsewhere. One thread calls it.

    Attributes:
        stages: The fields of `StageTimings` that its poses have times of.
    """

    stages: tuple[str, ...]

    def ask(self, item: Item, picture: Picture, *, live: bool, queue: FrameQueue) -> None:
        """Ask for the poses of a frame; not before those of the stream's frame before were taken.

        Args:
            item: What is handed back with the poses.
            picture: The frame and its people.
            live: Whether the stream is live, so that the frame may be dropped.
            queue: The stream's, which counts the frames that are dropped.
        """
        ...

    def take(self, *, all_of_them: bool = False) -> list[tuple[Item, Answer]]:
        """What has come since the last look, in the order in which it was asked for.

        Args:
            all_of_them: Whether to wait for those that are under way.
        """
        ...

    def close(self) -> None:
        """Ask no more, and wait for none."""
        ...


class SharedBatches(Generic[Item]):
    """Runs the frames of all streams that were asked for since the last `take`, in batches that they share.

    Args:
        estimate: Poses of several pictures, in order. It is called in `take`; may raise `EstimateStopped`.
    """

    stages: tuple[str, ...] = tuple(item.name for item in fields(StageTimings) if item.name != "server")

    def __init__(self, estimate: Callable[[Sequence[Picture]], list[PoseResult]]) -> None:
        self._estimate = estimate
        self._asked: list[tuple[Item, Picture]] = []

    def ask(self, item: Item, picture: Picture, *, live: bool, queue: FrameQueue) -> None:
        """See `Inference`."""
        self._asked.append((item, picture))

    def take(self, *, all_of_them: bool = False) -> list[tuple[Item, Answer]]:
        """See `Inference`; everything that was asked for comes at once."""
        asked, self._asked = self._asked, []
        return self._together(asked) if asked else []

    def close(self) -> None:
        """See `Inference`."""

    def _together(self, asked: list[tuple[Item, Picture]]) -> list[tuple[Item, Answer]]:
        """Poses of all in shared batches; where that fails, of each alone, to see whose fault it is."""
        items, pictures = [item for item, _ in asked], [picture for _, picture in asked]
        try:
            return list(zip(items, self._estimate(pictures), strict=True))
        except EstimateStopped:
            return [(item, None) for item in items]
        except Exception as error:
            if len(asked) == 1:
                return [(items[0], error)]
        return [pair for one in asked for pair in self._together([one])]
