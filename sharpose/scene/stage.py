"""A stage: everything a picture is drawn from, and the drawing of it at a moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Joints
from sharpose.scene.canvas import Array, Camera, Canvas
from sharpose.scene.cast import Person
from sharpose.scene.figure import ARMS, Layer, figure, painter_order
from sharpose.scene.head import HeadView, draw_head
from sharpose.scene.keypoints import body_keypoints, owner_label, rows_of, seen_on
from sharpose.scene.looks import Light
from sharpose.scene.props import Sprite

_PROP_LABEL = 60000


@dataclass(frozen=True)
class SceneFrame:
    """One drawn picture and what is true of it.

    Attributes:
        image: uint8 [H, W, 3], BGR.
        index: 0-based position in the scene.
        time: Seconds since the first frame.
        boxes_xyxy: float32 [n, 4], `x1, y1, x2, y2` in picture pixels: the whole drawn person, clothes, hair and
            hidden parts too, clipped to the picture. People entirely outside the picture are left out.
        keypoints: float32 [n, J, 3] of the scene's skeleton (COCO's 17 unless it was given another): x, y in picture
            pixels (whole numbers are pixel centres), and v: 0 outside the picture (x and y are still where it is), 1
            hidden by someone, something or the own body, 2 seen.
        ids: int64 [n], who it is; the same number is the same person in every frame.
    """

    image: npt.NDArray[np.uint8]
    index: int
    time: float
    boxes_xyxy: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Effects:
    """What the camera does to a picture: contrast, brightness, blur (sigma, pixels) and sensor noise."""

    contrast: float
    brightness: float
    blur: float
    noise: npt.NDArray[np.uint8] | None
    seed: tuple[int, ...]

    def apply(self, image: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        """The picture after them; the noise differs from frame to frame."""
        result: npt.NDArray[np.uint8] = image
        if self.blur > 0:
            result = np.asarray(cv2.GaussianBlur(result, (3, 3), self.blur), np.uint8)
        if self.noise is None:
            return np.asarray(cv2.addWeighted(result, self.contrast, result, 0, self.brightness), np.uint8)
        height, width = image.shape[:2]
        rng = np.random.default_rng([*self.seed, index])
        y = int(rng.integers(self.noise.shape[0] - height + 1))
        x = int(rng.integers(self.noise.shape[1] - width + 1))
        noise = self.noise[y : y + height, x : x + width]
        return np.asarray(cv2.addWeighted(result, self.contrast, noise, 1, self.brightness - 128), np.uint8)


_ROWS = 256  # made at once in floating point, so that memory is for the picture


def effects(seed: tuple[int, ...], height: int, width: int) -> Effects:
    """Mild effects, chosen at random."""
    rng = np.random.default_rng([*seed, 1])
    contrast = float(rng.uniform(0.85, 1.1))
    brightness = float(rng.uniform(-14, 14)) + 110 * (1 - contrast)
    blur = float(rng.uniform(0.4, 0.8)) if rng.random() < 0.4 else 0.0
    sigma = float(rng.uniform(0.8, 5.0))
    noise = None
    if rng.random() < 0.85:
        noise = np.empty((height + 32, width + 32, 3), np.uint8)
        for start in range(0, len(noise), _ROWS):
            rows = noise[start : start + _ROWS]
            rows[:] = np.clip(128.5 + sigma * rng.standard_normal(rows.shape, np.float32), 0, 255).astype(np.uint8)
    return Effects(contrast, brightness, blur, noise, (*seed, 2))


@dataclass(frozen=True)
class Stage:
    """A place with its camera and cast."""

    background: npt.NDArray[np.uint8]  # [H, W, 3], BGR, without people and props
    camera: Camera
    light: Light
    people: tuple[Person, ...]  # their index is their id
    props: tuple[Sprite, ...]
    effects: Effects
    rows: npt.NDArray[np.intp] = field(default_factory=lambda: rows_of(None))  # of `KEYPOINTS`, the labelled ones

    def render(self, index: int, time: float) -> SceneFrame:
        """The picture at `time` seconds."""
        canvas = Canvas(self.background.copy())
        moments = [person.actor.joints(time) for person in self.people]
        for prop in self.props:
            self._spot_shadow(canvas, prop.spot, prop.radius * 1.25, 0.5)
        for person, joints in zip(self.people, moments, strict=True):
            self._shadow(canvas, person, joints)
        order: list[tuple[float, int]] = [(prop.depth, -1 - i) for i, prop in enumerate(self.props)]
        order += [(float(self.camera.project(joints.pelvis)[1]), i) for i, joints in enumerate(moments)]
        bounds: dict[int, tuple[float, float, float, float]] = {}
        for _, who in sorted(order, reverse=True):
            if who < 0:
                prop = self.props[-1 - who]
                canvas.sprite(prop.x, prop.y, prop.colors, prop.mask, _PROP_LABEL)
            else:
                canvas.new_bounds()
                self._draw_person(canvas, who, moments[who])
                bounds[who] = canvas.bounds
        limit = np.array([canvas.width - 1, canvas.height - 1] * 2, np.float32)
        ids, boxes, keypoints = [], [], []
        for who, (person, joints) in enumerate(zip(self.people, moments, strict=True)):
            x1, y1, x2, y2 = bounds[who]
            if x2 < 0 or y2 < 0 or x1 > limit[0] or y1 > limit[1]:
                continue
            xy, towards, pixels = body_keypoints(person.body, person.looks, joints, self.camera)
            ids.append(who)
            boxes.append(np.clip(np.array([x1, y1, x2, y2], np.float32), 0, limit))
            keypoints.append(np.column_stack([xy, seen_on(canvas, who, xy, towards, pixels)])[self.rows])
        return SceneFrame(
            image=self.effects.apply(canvas.image, index),
            index=index,
            time=time,
            boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
            keypoints=np.asarray(keypoints, np.float32).reshape(-1, len(self.rows), 3),
            ids=np.asarray(ids, np.int64),
        )

    def _draw_person(self, canvas: Canvas, who: int, joints: Joints) -> None:
        person = self.people[who]
        pieces = figure(person.body, person.looks, person.hair, joints, self.camera)
        head = HeadView(person.body, joints, self.camera, self.light)
        everywhere = (-1e9, -1e9, 1e9, 1e9)
        layers = [Layer(one.depth, one.order, one.bounds, one.label in ARMS, i) for i, one in enumerate(pieces)]
        size = person.body.stature
        layers.append(Layer(head.depth, head.depth - 0.10 * size, head.bounds, False, -1))
        if person.seat is not None:
            layers.append(Layer(person.seat.depth, person.seat.depth + 0.21 * size, everywhere, False, -2))
        for place in painter_order(layers):
            if place == -1:
                draw_head(canvas, head, person.looks, owner_label(who, "head"), owner_label(who, "hair"))
            elif place == -2 and person.seat is not None:
                seat = person.seat
                canvas.sprite(seat.x, seat.y, seat.colors, seat.mask, _PROP_LABEL)
            else:
                pieces[place].draw(canvas, self.light, owner_label(who, pieces[place].label))

    def _spot_shadow(self, canvas: Canvas, spot: Array, radius: float, strength: float) -> None:
        points = np.array([(spot[0] + x, 0.0, spot[1] + z) for x, z in ((0, 0), (radius, 0), (0, radius))])
        center, right, back = self.camera.project(points)[0]
        canvas.shadow(center, right - center, back - center, strength)

    def _shadow(self, canvas: Canvas, person: Person, joints: Joints) -> None:
        size = person.body.stature
        middle = 0.6 * joints.ankles.mean(axis=0) + 0.4 * joints.pelvis
        self._spot_shadow(canvas, middle[[0, 2]] + (-0.10 * size * self.light.right, 0.0), 0.30 * size, 0.5)
        for side in range(2):
            sole = 0.5 * (joints.heels[side] + joints.toes[side])
            height = max(float(min(joints.heels[side, 1], joints.toes[side, 1])), 0.0) / size
            self._spot_shadow(canvas, sole[[0, 2]], 0.12 * size * (1 + 2 * height), 0.75 / (1 + 14 * height))
