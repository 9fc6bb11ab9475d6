"""Score tables: the probability that a keypoint, or a pose, is right, by its raw score.

A keypoint is right where its similarity to the truth, its term of OKS, is at least 0.5; a pose where its OKS is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpose.errors import ConfigError
from sharpose.skeleton import Skeleton

RIGHT = 0.5
"""The least similarity of a keypoint that is right, and the least OKS of a pose that is."""

MOST_POINTS, MOST_TABLES = 64, 1024
"""Of a table, and of a stage."""

Floats = npt.NDArray[np.float32]
_Float = Annotated[float, Field(strict=True)]  # a text is no number


def person_score(scores: Floats) -> Floats:
    """float32 [n]: the mean of a person's keypoint scores [n, J], 0 to 1, each weighted by itself; 0 where all are 0.

    So keypoints that can't be seen, whose scores are low, count little.
    """
    total = scores.sum(axis=1)
    score: Floats = ((scores**2).sum(axis=1) / np.where(total > 0, total, 1)).astype(np.float32)
    return score


class ScoreTable(BaseModel):
    """Probability by raw score: linear between the points, constant beyond the first and the last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    raw: tuple[_Float, ...] = Field(min_length=1, max_length=MOST_POINTS, description="ascending, 0 to 1")
    probability: tuple[_Float, ...] = Field(description="as many, never falling, 0 to 1")

    @model_validator(mode="after")
    def _rises(self) -> ScoreTable:
        if len(self.raw) != len(self.probability):
            raise ValueError(
                f"expected as many probabilities as raw scores, got {len(self.probability)} and {len(self.raw)}"
            )
        if not all(math.isfinite(value) and 0 <= value <= 1 for value in (*self.raw, *self.probability)):
            raise ValueError("expected numbers from 0 to 1")
        if list(self.raw) != sorted(set(self.raw)):
            raise ValueError(f"expected ascending raw scores, got {list(self.raw)}")
        if list(self.probability) != sorted(self.probability):
            raise ValueError(f"expected probabilities that never fall, got {list(self.probability)}")
        return self

    def __call__(self, raw: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """float64 of the shape of `raw`; NaN stays."""
        return np.asarray(np.interp(raw, self.raw, self.probability), np.float64)


class KeypointTable(ScoreTable):
    """The table of some keypoints, such as both knees. A raw score is the heatmap's peak, clipped to 0 to 1."""

    keypoints: tuple[str, ...] = Field(min_length=1, description="names")


class ScoreTables(BaseModel):
    """Of the keypoints in either stage, which are sure of themselves in different measure, and of people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    coarse: tuple[KeypointTable, ...] = Field(max_length=MOST_TABLES, description="each keypoint is in one")
    fine: tuple[KeypointTable, ...] = Field(max_length=MOST_TABLES, description="likewise")
    person: ScoreTable = Field(description="its raw score is `person_score` of the person's raw keypoint scores")
    fitted_on: str = Field(min_length=1, description="for people to read")

    def check(self, skeleton: Skeleton) -> None:
        """Raise `ConfigError` unless each keypoint of the skeleton is in exactly one table of either stage."""
        for stage, tables in (("coarse", self.coarse), ("fine", self.fine)):
            names = [name for table in tables for name in table.keypoints]
            if sorted(names) != sorted(skeleton.keypoints):
                differing = sorted(set(names) ^ set(skeleton.keypoints)) or sorted(
                    name for name in set(names) if names.count(name) > 1
                )
                raise ConfigError(
                    f"scores.{stage}: expected each keypoint of {skeleton.name} once, but not so: "
                    f"{', '.join(differing[:4])}"
                )


class ScoreCalibration:
    """Score tables at work, for poses of a skeleton's J keypoints. Raises `ConfigError` where they are of another."""

    def __init__(self, tables: ScoreTables, skeleton: Skeleton) -> None:
        tables.check(skeleton)
        self.tables = tables
        self._lines = [_in_one_line(stage, skeleton.keypoints) for stage in (tables.coarse, tables.fine)]

    def apply(self, keypoints: Floats, refined: npt.NDArray[np.bool_]) -> Floats:
        """Make raw keypoint scores probabilities, in place, and give those of the people.

        Args:
            keypoints: float32 [n, J, 3], `x, y` and score, the heatmap's peak, clipped to 0 to 1.
            refined: bool [n], whose pose is the fine stage's.

        Returns:
            float32 [n], the probability that a pose's OKS is at least 0.5.
        """
        starts = _APART * np.arange(keypoints.shape[1])
        confidence = self.tables.person(person_score(keypoints[:, :, 2])).astype(np.float32)
        for stage, (raw, probability) in enumerate(self._lines):
            rows = np.flatnonzero(refined == bool(stage))
            if len(rows):
                keypoints[rows, :, 2] = np.interp(keypoints[rows, :, 2] + starts, raw, probability)
        return confidence


_APART = 2.0  # between the tables of two keypoints on their common line: more than the range of scores


def _in_one_line(
    tables: Sequence[KeypointTable], keypoints: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The tables of all keypoints behind each other, so that one interpolation does for everybody."""
    table_of = {name: table for table in tables for name in table.keypoints}
    raw: list[float] = []
    probability: list[float] = []
    for place, name in enumerate(keypoints):
        table = table_of[name]
        points = dict(zip(table.raw, table.probability, strict=True))
        points = {0.0: table.probability[0], **points} if 0.0 not in points else points
        points = {**points, 1.0: table.probability[-1]} if 1.0 not in points else points
        raw += [_APART * place + score for score in points]
        probability += points.values()
    return np.array(raw), np.array(probability)
