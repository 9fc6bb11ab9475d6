"""Score tables of any skeleton, for tests of what is done with them."""

from __future__ import annotations

from sharpose.scores.tables import KeypointTable, ScoreTable, ScoreTables
from sharpose.skeleton import COCO17, Skeleton


def score_tables(skeleton: Skeleton = COCO17) -> ScoreTables:
    """A coarse raw score s becomes s / 2, a refined one s² in two lines; the first keypoint's is always 0.25."""
    first, others = skeleton.keypoints[:1], skeleton.keypoints[1:]
    level = KeypointTable(raw=(0.5,), probability=(0.25,), keypoints=first)
    half = KeypointTable(raw=(0.0, 1.0), probability=(0.0, 0.5), keypoints=others)
    square = KeypointTable(raw=(0.0, 0.5, 1.0), probability=(0.0, 0.25, 1.0), keypoints=others)
    person = ScoreTable(raw=(0.0, 1.0), probability=(0.0, 0.8))
    return ScoreTables(coarse=(level, half), fine=(level, square), person=person, fitted_on="nothing")
