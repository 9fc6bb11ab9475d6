"""What is known of a stream's people from frame to frame: who was refined, who has been still, what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.similarity import box_iou

_LEAST_OVERLAP = 0.3  # of boxes in two frames that are taken for the same person
_FRAMES_UNSEEN = 10  # after which a person is forgotten
_SECONDS_UNSEEN = 1.0
_SAME_PLACE = 0.5  # similarity of a keypoint that has stayed with its body


@dataclass
class PersonHistory:
    """A person of earlier frames."""

    box: npt.NDArray[np.float32]  # float32 [4], `x1, y1, x2, y2`, where they were last seen
    time: float  # when, in stream seconds
    still_box: npt.NDArray[np.float32]  # float32 [4], where they were when they had last moved, or were refined
    still_pose: npt.NDArray[np.float32]  # float32 [J, 3], their coarse pose then, picture pixels
    refined_pose: npt.NDArray[np.float32] | None = None  # [J, 3], refined then; None where they have moved since
    refined_confidence: float = 0.0  # that of the refined pose, where scores are calibrated
    still: int = 0  # frames since they moved
    unseen: int = 0  # frames since they were seen
    waited: int = 0  # frames in which refinement was wanted since they last were refined
    priority: float = 0.0  # in the last frame; 0 where no refinement was wanted


class StreamHistory:
    """The people of one stream."""

    def __init__(self) -> None:
        self.people: list[PersonHistory] = []  # those who were seen lately

    def match(self, boxes_xyxy: npt.NDArray[np.float32], time: float) -> list[PersonHistory | None]:
        """The person of each box [n, 4] in a frame at `time` (stream seconds), None for somebody new.

        Those whose boxes overlap most are matched first, each at most once.
        """
        self.people = [person for person in self.people if 0 <= time - person.time <= _SECONDS_UNSEEN]
        found: list[PersonHistory | None] = [None] * len(boxes_xyxy)
        if not self.people or not len(boxes_xyxy):
            return found
        overlap = box_iou(boxes_xyxy, np.stack([person.box for person in self.people]))
        taken: set[int] = set()
        for place in np.argsort(-overlap, axis=None, kind="stable"):
            box, person = (int(index) for index in np.unravel_index(place, overlap.shape))
            if overlap[box, person] < _LEAST_OVERLAP:
                break
            if found[box] is None and person not in taken:
                found[box] = self.people[person]
                taken.add(person)
        return found

    def update(self, seen: Sequence[PersonHistory]) -> None:
        """Keep the people of a frame, and for a while those who were not in it."""
        present = {id(person) for person in seen}
        missed = [person for person in self.people if id(person) not in present]
        for person in missed:
            person.unseen += 1
        self.people = [*seen, *(person for person in missed if person.unseen <= _FRAMES_UNSEEN)]


def carry_over(
    coarse_then: npt.NDArray[np.float32],
    fine_then: npt.NDArray[np.float32],
    coarse_now: npt.NDArray[np.float32],
    similarity: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """The refined pose of then, moved as the coarse pose as a whole has moved since.

    Poses are [J, 3], `x, y, score`; `similarity` [J] is that of the coarse keypoints (`keypoint_similarity`). Their own
    motions are mostly noise, so their mean is taken. A keypoint that went far by itself, as a hand does, is taken from
    the coarse pose of now.
    """
    stayed = similarity >= _SAME_PLACE
    carried: npt.NDArray[np.float32] = coarse_now.copy()
    if stayed.any():
        carried[stayed] = fine_then[stayed]
        carried[stayed, :2] += (coarse_now - coarse_then)[stayed, :2].mean(axis=0)
    return carried
