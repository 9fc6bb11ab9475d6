"""Skeletons: the names, mirror pairs, limbs and colours of a set of keypoints, and reading them. Torch-free.

Built-in ones are `configs/skeletons/*.yaml`; others come from a YAML of the same form, or from a COCO label file.
"""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from sharpose.errors import ConfigError, describe_validation_error
from sharpose.files import LABELS_LIMIT, found_at, parse_yaml, read_json, read_yaml

_log = logging.getLogger("sharpose.skeleton")

BUILT_IN = ("coco17", "mpii16", "halpe26", "coco_wholebody133", "ap10k17")
"""Names of the skeletons that come with the package."""
DEFAULT_SIGMA = 0.05
"""OKS constant of a keypoint for which none is given and none is published."""
SIDE_COLOURS = {"left": "#ff8c00", "right": "#2896ff", "centre": "#f0f0f0"}
"""Colours by side of the body, the person's own left and right, for what has none of its own."""

PERSON_NAMES = frozenset({"person", "people", "human"})
"""What label files call the category of people, in any case."""

_MOST = 1024  # keypoints; COCO-WholeBody has 133
_NAMED = 12  # keypoints in a message
_LONG = 100  # characters of a name; longer ones are not searched for one that is meant
_COLOUR = re.compile("#[0-9a-fA-F]{6}")
_SIDES = ("left_", "right_")  # what a plain name of a side begins with
_FOREIGN_SIDE = re.compile(  # a word of a side in German and Dutch, French, Spanish, Italian, Portuguese
    "link(s|e[nrs]?)|recht(s|e[nrs]?)|gauche|droite?|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|esquerd[ao]|direit[ao]"
)
_SHORT_SIDES = tuple(  # the same, abbreviated; both are there where they stand for sides
    frozenset(pair.split("/")) for pair in ("li/re", "g/d", "izq/der", "izda/dcha", "sx/dx", "sin/des", "esq/dir")
)
_UNPRINTABLE = re.compile(  # breaks lines and columns, isn't seen (two names would look alike), or isn't UTF-8
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_LOWER_WORDS = ("hip", "pelvis", "knee", "ankle", "heel", "toe", "foot", "tail")


@dataclass(frozen=True)
class Skeleton:
    """A set of keypoints. Equal are those with the same keypoints, limbs, pairs and sigmas, whatever their colours.

    Attributes:
        name: The name a configuration refers to it by.
        keypoints: Keypoint names, in index order.
        limbs: Pairs of keypoint indices joined by a line when drawn.
        flip_pairs: `(left, right)` index pairs that change places in a mirrored picture.
        sigmas: OKS constants, one a keypoint.
        upper_body: Indices of the keypoints of the upper half, for crops of half a body in training; the others are the
            lower half. None: those whose names name nothing below the waist.
        keypoint_colours: `#rrggbb`, one a keypoint; none: by side, as in `SIDE_COLOURS`.
        limb_colours: `#rrggbb`, one a limb; none: that of a side, the centre's where it joins left and right.
        sigmas_from: Where the sigmas were published, or what was assumed; for people to read.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[int, ...] | None = field(default=None, compare=False)
    keypoint_colours: tuple[str, ...] = field(default=(), compare=False)
    limb_colours: tuple[str, ...] = field(default=(), compare=False)
    sigmas_from: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        for what, number, most in (("keypoint", count, _MOST), ("limb", len(self.limbs), 4 * _MOST)):
            if number > most or not count:
                raise ConfigError(f"skeleton {self.name!r}: {what}s: expected 1 to {most}, got {number}")
        _check_names(f"skeleton {self.name!r:.80}", {"name": self.name} | _numbered(self.keypoints))
        if len(set(self.keypoints)) != count:
            raise ConfigError(f"skeleton {self.name!r}: keypoint names must be unique, got {list(self.keypoints)}")
        if len(self.sigmas) != count:
            raise ConfigError(f"skeleton {self.name!r}: expected {count} sigmas, got {len(self.sigmas)}")
        if not all(sigma > 0 for sigma in self.sigmas):
            raise ConfigError(f"skeleton {self.name!r}: sigmas must be positive, got {list(self.sigmas)}")
        for what, pairs in (("limb", self.limbs), ("flip pair", self.flip_pairs)):
            for pair in pairs:
                if len(pair) != 2 or not all(0 <= index < count for index in pair) or pair[0] == pair[1]:
                    raise ConfigError(
                        f"skeleton {self.name!r}: {what} {pair} must be two different indices in [0, {count})"
                    )
        mirrored = [index for pair in self.flip_pairs for index in pair]
        if len(set(mirrored)) != len(mirrored):
            raise ConfigError(f"skeleton {self.name!r}: a keypoint is in more than one flip pair")
        upper = self.upper_body or ()
        if len(set(upper)) != len(upper) or not all(0 <= index < count for index in upper):
            raise ConfigError(
                f"skeleton {self.name!r}: upper_body: expected different indices in [0, {count}), got {list(upper)}"
            )
        for key, colours, number in (
            ("keypoint_colours", self.keypoint_colours, count),
            ("limb_colours", self.limb_colours, len(self.limbs)),
        ):
            if colours and len(colours) != number:
                raise ConfigError(f"skeleton {self.name!r}: {key}: expected none or {number}, got {len(colours)}")
            for colour in colours:
                _check_colour(colour, f"skeleton {self.name!r}: {key}")

    @property
    def num_keypoints(self) -> int:
        """How many keypoints there are (J)."""
        return len(self.keypoints)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """For each keypoint, the index of its mirror image (itself where it has none)."""
        order = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def is_upper(self) -> tuple[bool, ...]:
        """Whether each keypoint is one of the upper half of the body."""
        if self.upper_body is not None:
            return tuple(index in self.upper_body for index in range(self.num_keypoints))
        return tuple(not any(word in name.lower() for word in _LOWER_WORDS) for name in self.keypoints)

    @property
    def colours(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """`#rrggbb` of each keypoint and of each limb, its own or by side."""
        points = self.keypoint_colours or tuple(SIDE_COLOURS[self.side(index)] for index in range(self.num_keypoints))
        return points, self.limb_colours or _limb_colours(self, points, SIDE_COLOURS["centre"])

    def side(self, index: int) -> str:
        """`"left"`, `"right"` or `"centre"`: which side of the body keypoint `index` belongs to."""
        for left, right in self.flip_pairs:
            if index == left:
                return "left"
            if index == right:
                return "right"
        return "centre"


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {f"keypoint {index}": name for index, name in enumerate(names)}


def _check_names(place: str, names: Mapping[str, str]) -> None:
    for what, name in names.items():
        if not name.strip():
            raise ConfigError(f"{place}: {what}: expected a name, got an empty one")
        if found := _UNPRINTABLE.search(name):
            raise ConfigError(
                f"{place}: {what}: expected printable characters, as the headers of tables and .trc files have them, "
                f"got {found[0]!r} in {name!r:.80}"
            )


def _check_colour(colour: object, place: str) -> str:
    if not isinstance(colour, str) or _COLOUR.fullmatch(colour) is None:
        raise ConfigError(f"{place}: expected a colour such as '#ff8c00', got {reprlib.repr(colour)}")
    return colour.lower()


@cache
def get_skeleton(name: str) -> Skeleton:
    """The built-in skeleton called `name`; raises `ConfigError` with the known names if there is none."""
    if name not in BUILT_IN:
        raise ConfigError(f"unknown skeleton {name!r}: expected one of {', '.join(BUILT_IN)}")
    content = resources.files("sharpose.configs").joinpath("skeletons").joinpath(f"{name}.yaml").read_text("utf-8")
    values = parse_yaml(content, lambda reason: ConfigError(f"skeleton {name}: {reason}"))
    return _checked(values, f"skeleton {name}")


if TYPE_CHECKING:
    COCO17: Skeleton
    """COCO's 17 keypoints."""
    MPII16: Skeleton
    """MPII's 16 keypoints."""
    HALPE26: Skeleton
    """COCO's 17 with head, neck, hip and feet, as Halpe has them."""
else:

    def __getattr__(name: str) -> Skeleton:
        """The constants, read on first use: a bundle brings its skeleton, and running one needs no YAML."""
        if name.lower() not in BUILT_IN or name != name.upper():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return get_skeleton(name.lower())


def load_skeleton(source: str | Path | Mapping[str, object], folder: Path = Path()) -> Skeleton:
    """A skeleton by its built-in name, from a file, or from a mapping with the content of one.

    What is assumed of it (flip pairs from its names, sigmas that it lacks) is logged as warnings of the logger
    `sharpose.skeleton`, which Python prints to standard error unless told otherwise.

    Args:
        source: A name in `BUILT_IN`; the path of a YAML, or of a COCO label file (`.json`), whose category of people
            lists `keypoints` and `skeleton`; or a mapping as in the YAML.
        folder: Folder that a path may be relative to, before the working directory.

    Raises:
        ConfigError: there is no such skeleton or file, or it isn't one.
    """
    if isinstance(source, Mapping):
        return _checked(_filled(source, "skeleton"), "skeleton")
    if source in BUILT_IN:
        return get_skeleton(str(source))
    paths = (folder / source, Path(source))
    file = next((path for path in paths if path.is_file()), None)
    if file is None:
        if there := next((path for path in paths if path.exists()), None):
            raise ConfigError(f"skeleton {there}: expected a YAML, or COCO labels (.json), found {found_at(there)}")
        raise ConfigError(
            f"unknown skeleton {str(source)!r}: expected one of {', '.join(BUILT_IN)}, or the file of one: a YAML, or "
            "COCO labels (.json)"
        )
    place = f"skeleton {file}"

    def failure(reason: str) -> ConfigError:
        return ConfigError(f"{place}: {reason}")

    if file.suffix.lower() == ".json":
        values = _of_coco(read_json(file, failure, LABELS_LIMIT), place)
    else:
        values = read_yaml(file, failure)
        if not isinstance(values, dict):
            raise failure(f"expected a mapping of keys to values, got {type(values).__name__}")
    return _checked(_filled({"name": file.stem} | values, place), place)


class _Holder(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    skeleton: Skeleton


def _checked(values: Mapping[str, object], place: str) -> Skeleton:
    try:
        return _Holder.model_validate({"skeleton": with_indices(values, place)}).skeleton
    except ValidationError as error:
        raise ConfigError(f"{place}: {describe_validation_error(error).removeprefix('skeleton.')}") from error


def with_indices(values: Mapping[str, object], place: str) -> dict[str, object]:
    """The fields of a `Skeleton` from what people write in YAML.

    There keypoints are named instead of counted in `limbs`, `flip_pairs` and `upper_body`; `sigmas` may be one number
    for all, or a mapping by name; and `colours` maps sides (`left`, `right`, `centre`) and keypoints to `#rrggbb`.

    Args:
        values: The mapping. Values of a wrong kind stay as they are, for whoever validates them.
        place: Where it is from, for messages.

    Raises:
        ConfigError: a name is no keypoint's, or a colour isn't one.
    """
    fields = dict(values)
    names = _names(fields)
    if names is None:
        return fields
    index = {name: number for number, name in enumerate(names)}

    def number_of(name: object, key: str) -> object:
        if not isinstance(name, str):
            return name
        if name not in index:
            known = [other for other in names[:_MOST] if len(other) <= _LONG]
            close = get_close_matches(name, known, 1) if len(name) <= _LONG else []
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{place}: {key}: expected the name of a keypoint, got {name!r:.80}{hint}")
        return index[name]

    for key in ("limbs", "flip_pairs"):
        if isinstance(pairs := fields.get(key), list | tuple):
            fields[key] = [
                [number_of(name, key) for name in pair] if isinstance(pair, list | tuple) else pair for pair in pairs
            ]
    if isinstance(upper := fields.get("upper_body"), list | tuple):
        fields["upper_body"] = [number_of(name, "upper_body") for name in upper]
    sigmas = fields.get("sigmas")
    if isinstance(sigmas, Mapping):
        for name in sigmas:
            number_of(name, "sigmas")
        if missing := [name for name in names if name not in sigmas]:
            raise ConfigError(f"{place}: sigmas: expected one for each keypoint, found none for {_listed(missing)}")
        fields["sigmas"] = [sigmas[name] for name in names]
    elif isinstance(sigmas, int | float):
        fields["sigmas"] = [sigmas] * len(names)
    if isinstance(colours := fields.get("colours"), Mapping):
        del fields["colours"]
        chosen = {str(key): _check_colour(colour, f"{place}: colours: {key}") for key, colour in colours.items()}
        for key in chosen.keys() - SIDE_COLOURS.keys():
            number_of(key, "colours")
        fields |= _coloured(_checked(fields, place), chosen)
    return fields


def _names(fields: Mapping[str, object]) -> list[str] | None:
    """The keypoints' names; None where they aren't a list of text."""
    names = fields.get("keypoints")
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def _coloured(skeleton: Skeleton, colours: Mapping[str, str]) -> dict[str, object]:
    """The colours of keypoints and limbs, from those that are chosen by side and by name."""
    of_side = SIDE_COLOURS | {side: colour for side, colour in colours.items() if side in SIDE_COLOURS}
    sides = [skeleton.side(index) for index in range(skeleton.num_keypoints)]
    points = [colours.get(name, of_side[side]) for name, side in zip(skeleton.keypoints, sides, strict=True)]
    return {"keypoint_colours": points, "limb_colours": _limb_colours(skeleton, points, of_side["centre"])}


def _limb_colours(skeleton: Skeleton, points: Sequence[str], centre: str) -> tuple[str, ...]:
    """A limb has the colour of its second end, of the first where only that has a side, and the centre's where it joins
    left and right.
    """
    colours = []
    for first, second in skeleton.limbs:
        sides = skeleton.side(first), skeleton.side(second)
        if set(sides) == {"left", "right"}:
            colours.append(centre)
        else:
            colours.append(points[first if sides[1] == "centre" != sides[0] else second])
    return tuple(colours)


def plain_name(name: str) -> str:
    """A keypoint's name as the built-in skeletons write theirs: `LBigToe`, `Big toe (left)` as `left_big_toe`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = re.findall(r"\w+", spaced.lower().replace("_", " "))
    words = [{"l": "left", "r": "right"}.get(word, word) for word in words]
    side = next((word for word in words if word in ("left", "right")), None)
    if side is not None:
        words.remove(side)
        words.insert(0, side)
    return "_".join(words) or name


def _filled(values: Mapping[str, object], place: str) -> dict[str, object]:
    """A mapping with what it leaves out: flip pairs by the names, sigmas published for them, the upper half."""
    fields = {"limbs": []} | dict(values)
    names = _names(fields)
    if names is None:
        return fields
    _check_names(place, _numbered(names))  # before lines are logged that list them
    plain = [plain_name(name) for name in names]
    if "flip_pairs" not in fields:
        by_plain = dict(zip(plain, names, strict=True))
        pairs = [
            (left, by_plain[other])
            for one, left in zip(plain, names, strict=True)
            if f"{one}_".startswith("left_") and (other := f"right{one.removeprefix('left')}") in by_plain
        ]
        paired = {name for pair in pairs for name in pair}
        alone = [name for name in names if name not in paired]
        said = ", ".join(f"{left}/{right}" for left, right in pairs) or "none"
        _log.warning("%s: flip pairs by left and right in the names: %s; without: %s", place, said, _listed(alone))
        sided = [name for name in alone if plain_name(name).startswith(_SIDES)]
        if sided:
            _log.warning(
                "%s: a side without its other side: %s; mirrored pictures, half of those in training, teach such a "
                "keypoint on the wrong side: add the other side's keypoints, or train with "
                "data.augmentation.flip_probability=0 and flip_pairs: [] in a YAML",
                place,
                _listed(sided),
            )
        short = _with_short_sides(alone)
        words_of = {name: plain_name(name).split("_") for name in alone}
        foreign = [name for name in alone if name in short or any(map(_FOREIGN_SIDE.fullmatch, words_of[name]))]
        if foreign:
            _log.warning(
                "%s: sides are read in English alone, and these seem to name one in another language: %s; give their "
                "flip_pairs in a YAML ([] for none), else mirrored pictures, half of those in training, teach them on "
                "the wrong side",
                place,
                _listed(foreign),
            )
        fields["flip_pairs"] = pairs
    if "sigmas" not in fields:
        known = {name: _sigmas(name) for name in BUILT_IN}
        best = max(BUILT_IN, key=lambda name: len(known[name].keys() & set(plain)))
        fields["sigmas"] = [known[best].get(name, DEFAULT_SIGMA) for name in plain]
        others = [name for name, one in zip(names, plain, strict=True) if one not in known[best]]
        if not others:
            fields["sigmas_from"] = f"those of {best}, by name"
        elif len(others) < len(names):
            fields["sigmas_from"] = f"those of {best} by name, {DEFAULT_SIGMA} for {_listed(others)}"
        else:
            fields["sigmas_from"] = f"the default of {DEFAULT_SIGMA}"
        _log.warning("%s: no sigmas given, which AP and tracking need: taken are %s", place, fields["sigmas_from"])
    if fields.get("upper_body") is None:
        fields["upper_body"] = [
            name for name, one in zip(names, plain, strict=True) if not any(word in one for word in _LOWER_WORDS)
        ]
    return fields


def _with_short_sides(names: Sequence[str]) -> set[str]:
    """Names that differ from exactly one other in a word, where the two words abbreviate a left and a right side."""
    alike: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = plain_name(name).split("_")
        for place, word in enumerate(words):
            alike.setdefault((*words[:place], "", *words[place + 1 :]), {})[word] = name
    return {name for by_word in alike.values() if frozenset(by_word) in _SHORT_SIDES for name in by_word.values()}


def _sigmas(name: str) -> dict[str, float]:
    skeleton = get_skeleton(name)
    return dict(zip(skeleton.keypoints, skeleton.sigmas, strict=True))


def _listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown or "none"


def _of_coco(document: object, place: str) -> dict[str, object]:
    """Names and limbs from the categories of a COCO label file, where limbs count keypoints from 1."""
    listed = document.get("categories") if isinstance(document, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    with_names = [entry for entry in entries if entry.get("keypoints")]
    people = [entry for entry in with_names if str(entry.get("name")).lower() in PERSON_NAMES] or with_names
    if not people:
        raise ConfigError(
            f"{place}: expected COCO labels with a category that lists its keypoints, found none in categories; write "
            "a YAML instead"
        )
    names, limbs = people[0]["keypoints"], people[0].get("skeleton") or []
    for entry in people[1:]:
        if entry["keypoints"] != names:
            raise ConfigError(
                f"{place}: categories {people[0].get('name')!r:.80} and {entry.get('name')!r:.80} list different "
                "keypoints, and none is named person; write a YAML instead"
            )
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{place}: keypoints: expected a list of names, got {reprlib.repr(names)}")
    pairs = []
    for limb in limbs if isinstance(limbs, list) else [limbs]:
        if not isinstance(limb, list) or len(limb) != 2 or not all(type(end) is int for end in limb):
            raise ConfigError(f"{place}: skeleton: expected pairs of numbers, got {reprlib.repr(limb)}")
        if not all(1 <= end <= len(names) for end in limb):
            raise ConfigError(
                f"{place}: skeleton: expected numbers from 1 to {len(names)}, as COCO counts keypoints, got {limb}"
            )
        pairs.append([end - 1 for end in limb])
    return {"keypoints": [plain_name(name) for name in names], "limbs": pairs}
