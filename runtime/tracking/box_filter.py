"""A person's box as a Kalman filter: constant velocity, real seconds, noise in terms of the person's size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BoxFilter"]

# In body heights, so that near and far people behave alike: 1 m/s² is about 0.6 of a height.
_BOX_NOISE = 0.05  # of a detected box's centre
_SIZE_NOISE = 0.10
_ACCELERATION = 1.2  # heights / s²
_GROWTH = 0.15  # heights / sqrt(s): how the size wanders
_FIRST_SPEED = 1.0  # heights / s, before anything is known of it
_MIN_SIZE = 1.0  # pixels: a box without area still has noise


class BoxFilter:
    """Where a box is and where it will be.

    Centre and velocity are filtered together; width and height wander without a trend, since a trend in size comes
    from occlusion more often than from walking, and leads far off while nobody looks. x and y have the same noise, so
    they share one covariance.

    Args:
        xyxy: float32 [4], the first box, in pixels.
    """

    def __init__(self, xyxy: npt.NDArray[np.float32]) -> None:
        self._x, self._y, self._width, self._height = _centre_and_size(xyxy)
        self._speed_x = self._speed_y = 0.0
        scale = self._scale
        # Variances of place, of both together, of speed; and of size.
        self._place, self._both, self._speed = (_BOX_NOISE * scale) ** 2, 0.0, (_FIRST_SPEED * scale) ** 2
        self._size = (_SIZE_NOISE * scale) ** 2

    @property
    def _scale(self) -> float:
        return max(self._height, self._width, _MIN_SIZE)

    @property
    def xyxy(self) -> npt.NDArray[np.float32]:
        """float32 [4], the box as it is believed to be."""
        half = 0.5 * self._width, 0.5 * self._height
        return np.array(
            [self._x - half[0], self._y - half[1], self._x + half[0], self._y + half[1]],
            np.float32,
        )

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle, x and y in pixels."""
        return self._x, self._y

    def predict(self, seconds: float) -> None:
        """Go on for `seconds` (0 or more) without looking."""
        self._x += self._speed_x * seconds
        self._y += self._speed_y * seconds
        noise = (_ACCELERATION * self._scale) ** 2
        self._place += seconds * (2 * self._both + seconds * self._speed) + noise * seconds**4 / 4
        self._both += seconds * self._speed + noise * seconds**3 / 2
        self._speed += noise * seconds**2
        self._size += (_GROWTH * self._scale) ** 2 * seconds

    def correct(self, xyxy: npt.NDArray[np.float32]) -> None:
        """Take a detected box in: float32 [4]."""
        x, y, width, height = _centre_and_size(xyxy)
        scale = self._scale
        noise = (_BOX_NOISE * scale) ** 2
        gain, speed_gain = self._place / (self._place + noise), self._both / (self._place + noise)
        off_x, off_y = x - self._x, y - self._y
        self._x += gain * off_x
        self._y += gain * off_y
        self._speed_x += speed_gain * off_x
        self._speed_y += speed_gain * off_y
        self._speed -= speed_gain * self._both
        self._both *= 1 - gain
        self._place *= 1 - gain
        size_noise = (_SIZE_NOISE * scale) ** 2
        size_gain = self._size / (self._size + size_noise)
        self._width += size_gain * (width - self._width)
        self._height += size_gain * (height - self._height)
        self._size *= 1 - size_gain

    def rescale(self, x: float, y: float) -> None:
        """The picture has become `x` times as wide and `y` times as high."""
        self._x, self._width, self._speed_x = self._x * x, self._width * x, self._speed_x * x
        self._y, self._height, self._speed_y = self._y * y, self._height * y, self._speed_y * y
        area = x * y
        self._place, self._both, self._speed = self._place * area, self._both * area, self._speed * area
        self._size *= area


def _centre_and_size(xyxy: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    return 0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1
