"""`--conf`, `--iou` and `--classes`: what they may be, and where they would do nothing."""

from __future__ import annotations

from typing import Literal

from sharpose.errors import InputError

__all__ = ["COCO_CLASSES", "PeopleFrom", "check_detector_options", "parse_classes"]

PeopleFrom = Literal["detector", "boxes", "motion", "full-frame", "scene"]
"""Where people come from."""

COCO_CLASSES = (  # noqa: SIM905 - readable as a text
    "person bicycle car motorcycle airplane bus train truck boat traffic-light fire-hydrant stop-sign "
    "parking-meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag "
    "tie suitcase frisbee skis snowboard sports-ball kite baseball-bat baseball-glove skateboard surfboard "
    "tennis-racket bottle wine-glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot "
    "hot-dog pizza donut cake chair couch potted-plant bed dining-table toilet tv laptop mouse remote keyboard "
    "cell-phone microwave oven toaster sink refrigerator book clock vase scissors teddy-bear hair-drier "
    "toothbrush "
).split()
"""COCO's 80 classes in the order of their ids; words are joined by a hyphen."""

# What each does something to.
_MEANT_FOR: dict[str, tuple[PeopleFrom, ...]] = {
    "--conf": ("detector", "boxes"),
    "--iou": ("detector",),
    "--classes": ("detector",),
}
_NOTHING: dict[PeopleFrom, str] = {
    "detector": "",
    "boxes": "a boxes file's people are taken as they are",
    "motion": "the motion detector has neither classes nor overlaps",
    "full-frame": "the full frame is one person",
    "scene": "the scene's boxes are the true ones",
}


def parse_classes(text: str) -> tuple[int, ...]:
    """Class ids from `0,16` or `person,dog`: ids from 0, or COCO's names (`sports-ball` or `sports ball`).

    Raises:
        InputError: an entry is neither, or stands there twice.
    """
    ids: list[int] = []
    for part in text.split(","):
        name = "-".join(part.lower().split())
        if name.isascii() and name.isdigit():
            ids.append(int(name))
        elif name in COCO_CLASSES:
            ids.append(COCO_CLASSES.index(name))
        else:
            raise InputError(
                f"--classes: expected ids from 0 or COCO's names with commas between, as person or 0,16; got {part!r}"
            )
    if len(set(ids)) != len(ids):
        raise InputError(f"--classes: every class once, got {text!r}")
    return tuple(ids)


def check_detector_options(
    people_from: PeopleFrom, *, conf: float | None, iou: float | None, classes: str | None
) -> None:
    """Refuse an option where it would do nothing, or whose value is out of range; None is an option that isn't given.

    Raises:
        InputError: see above.
    """
    for name, value in (("--conf", conf), ("--iou", iou), ("--classes", classes)):
        if value is not None and people_from not in _MEANT_FOR[name]:
            raise InputError(f"{name} would do nothing here: {_NOTHING[people_from]}; leave it out")
    for name, number in (("--conf", conf), ("--iou", iou)):
        if number is not None and not 0 <= number <= 1:
            raise InputError(f"{name}: expected a number from 0 to 1, got {number}")
    if classes is not None:
        parse_classes(classes)
