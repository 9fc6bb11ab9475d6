"""The two-stage pipeline's known answers: keypoints that are blobs of light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import PATCH, REGION, StubStages

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.two_stage import CoarseOutput
from sharpose.runtime import PoseEstimator
from sharpose.runtime.gate import Refine


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


class BlobStages(StubStages):
    """Keypoint c is the centre of what is bright in channel c; keypoints 3 and 4 are the crop's first and last pixel.

    The coarse stage looks at the crop, the fine stage only at the patches that were gathered for it.
    """

    def run_coarse(self, people: int) -> CoarseOutput:
        super().run_coarse(people)
        rows, columns = self.regions
        for row in range(people):
            crop = self.crops[row]
            self._coarse_keypoints[row] = self._find(crop, score=0.5)
            light = crop.reshape(rows, REGION, columns, REGION, 3).astype(np.int64).sum((1, 3, 4)).ravel()
            self._order[row] = np.argsort(-light, kind="stable")
        return CoarseOutput(self._coarse_keypoints[:people], self._quality[:people], self._order[:people])

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        found = []
        for index, row in enumerate(rows):
            crop = np.zeros((*self.crop_size, 3), np.uint8)
            patches = self.patches[index].reshape(self.selected, 2, 2, PATCH, PATCH, 3)
            for region, of_region in zip(self._order[row], patches, strict=False):
                top, left = region // self.regions[1] * REGION, region % self.regions[1] * REGION
                for down in range(2):
                    for right in range(2):
                        y, x = top + down * PATCH, left + right * PATCH
                        crop[y : y + PATCH, x : x + PATCH] = of_region[down, right]
            found.append(self._find(crop, score=0.9))
        super().run_fine(rows)
        return np.stack(found)

    def _find(self, crop: npt.NDArray[np.uint8], score: float) -> npt.NDArray[np.float32]:
        height, width = self.crop_size
        y, x = np.mgrid[:height, :width]
        found = np.zeros((self.joints, 3), np.float32)
        for channel in range(3):
            light = crop[..., channel].astype(np.float64)
            total = light.sum()
            assert total > 0, "the blob isn't in the crop"
            found[channel] = (x * light).sum() / total, (y * light).sum() / total, score
        found[3], found[4] = (0, 0, score), (width - 1, height - 1, score)
        return found


# A picture's height and width, a box, the blobs' radius in pixels, and where the red, green and blue one are.
BLOBS: dict[str, tuple[tuple[int, int], tuple[int, int, int, int], int, list[tuple[float, float]]]] = {
    "inside": ((360, 480), (100, 60, 200, 260), 4, [(140.3, 90.8), (120, 170), (185.5, 240.25)]),
    "upscaled": ((120, 160), (60, 40, 84, 76), 2, [(66.5, 46), (74.25, 58.5), (80, 70)]),
    "downscaled": ((1000, 1500), (200, 50, 900, 950), 20, [(300, 200), (560.5, 480.5), (800, 880)]),
    "wide": ((360, 480), (60, 150, 420, 210), 5, [(90, 170), (240.5, 180.5), (400, 195)]),
    "out on the left": ((360, 480), (-120, 40, 90, 330), 4, [(20, 100), (50.75, 180), (80, 300.5)]),
    "out below right": ((360, 480), (400, 220, 560, 470), 4, [(420, 240), (440.25, 300), (462, 340)]),
    "larger than the picture": ((200, 150), (-100, -80, 250, 300), 6, [(20, 30), (75.5, 100.5), (130, 180)]),
}


def picture_of_blobs(size: tuple[int, int], radius: float, centers: list[tuple[float, float]]) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3], BGR, black but for a red, a green and a blue blob."""
    y, x = np.mgrid[: size[0], : size[1]]
    rgb = [250 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (radius / 2) ** 2)) for cx, cy in centers]
    return np.ascontiguousarray(np.stack(rgb[::-1], axis=2).round().astype(np.uint8))


@pytest.mark.parametrize("refine", ["never", "always"])
@pytest.mark.parametrize("name", BLOBS)
def test_keypoints_land_where_the_light_is(bundle: Bundle, name: str, refine: Refine) -> None:
    size, box, radius, centers = BLOBS[name]
    estimator = PoseEstimator(bundle, BlobStages(bundle), refine=refine)
    result = estimator(picture_of_blobs(size, radius, centers), [box])
    assert result.refined.tolist() == [refine == "always"]
    np.testing.assert_allclose(result.keypoints[0, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[0, :3, 2], 0.9 if refine == "always" else 0.5)


def test_the_crops_corners_are_the_padded_boxs_corners(bundle: Bundle) -> None:
    size, box, radius, centers = BLOBS["inside"]  # 100 x 200: higher than the crop's 3:4, so 150 x 200
    result = PoseEstimator(bundle, BlobStages(bundle), refine="never")(picture_of_blobs(size, radius, centers), [box])
    half = 1.25 * np.array([150, 200]) / 2
    center = np.array([150, 160])
    np.testing.assert_allclose(result.keypoints[0, 3, :2], center - half, atol=1e-3)
    np.testing.assert_allclose(result.keypoints[0, 4, :2], center + half, atol=1e-3)


def test_people_of_a_batch_keep_their_own_light(bundle: Bundle) -> None:
    """Six people in chunks of four, some of them refined: nobody gets another's crop, patches or frame."""
    picture = np.zeros((400, 900, 3), np.uint8)
    boxes, centers = [], []
    for index in range(6):
        left, top = 20 + (index % 3) * 300, 20 + (index // 3) * 200
        own = [(10.0 + 3 * index, 20.0), (40.0, 60.0 + index), (60.0, 100.0 - 4 * index)]
        picture[top - 10 : top + 150, left - 10 : left + 120] = picture_of_blobs(
            (160, 130), 4, [(x + 10, y + 10) for x, y in own]
        )
        boxes.append([left, top, left + 80, top + 130])
        centers.append([(left + x, top + y) for x, y in own])
    estimator = PoseEstimator(bundle, BlobStages(bundle))
    result = estimator(picture, boxes, rows=[1, 2, 5])
    np.testing.assert_allclose(result.keypoints[:, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[:, 0, 2], [0.5, 0.9, 0.9, 0.5, 0.5, 0.9])
