import dataclasses

import pytest

from sharpose.errors import ConfigError
from sharpose.skeleton import COCO17, MPII16, SKELETONS, Skeleton, get_skeleton


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda item: item.name)
def test_mirror_images_agree_with_the_names(skeleton):
    swap = {"left": "right", "right": "left"}
    for index, mirrored in enumerate(skeleton.flip_order):
        side, _, part = skeleton.keypoints[index].partition("_")
        expected = f"{swap[side]}_{part}" if side in swap else skeleton.keypoints[index]
        assert skeleton.keypoints[mirrored] == expected
        assert skeleton.side(index) == (side if side in swap else "centre")
        assert skeleton.sigmas[index] == skeleton.sigmas[mirrored]


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda item: item.name)
def test_limbs_join_every_keypoint(skeleton):
    reached, grown = {skeleton.limbs[0][0]}, True
    while grown:
        before = len(reached)
        for first, second in skeleton.limbs:
            if {first, second} & reached:
                reached |= {first, second}
        grown = len(reached) > before
    if skeleton is COCO17:  # the ears and eyes hang together on the nose, apart from the body
        assert reached == {0, 1, 2, 3, 4}
    else:
        assert reached == set(range(skeleton.num_keypoints))


def test_published_numbers():
    assert COCO17.num_keypoints == 17
    assert COCO17.keypoints[0] == "nose"
    assert COCO17.keypoints[16] == "right_ankle"
    assert COCO17.sigmas[:5] == (0.026, 0.025, 0.025, 0.035, 0.035)
    assert COCO17.sigmas[11:] == (0.107, 0.107, 0.087, 0.087, 0.089, 0.089)
    assert MPII16.num_keypoints == 16
    assert MPII16.keypoints[9] == "head_top"
    assert MPII16.flip_order == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": ("a", "a")}, "unique"),
        ({"sigmas": (0.1,)}, "2 sigmas"),
        ({"sigmas": (0.1, 0.0)}, "positive"),
        ({"sigmas": (0.1, float("nan"))}, "positive"),
        ({"limbs": ((0, 2),)}, "limb"),
        ({"limbs": ((-1, 0),)}, "limb"),
        ({"flip_pairs": ((0, 0),)}, "flip pair"),
        ({"flip_pairs": ((0, 1), (1, 0))}, "more than one"),
    ],
)
def test_a_broken_skeleton_is_refused(change, words):
    good = Skeleton("two", ("a", "b"), ((0, 1),), ((0, 1),), (0.1, 0.1))
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(good, **change)


def test_an_unknown_name_is_refused_with_the_known_ones():
    assert get_skeleton("coco17") is COCO17
    with pytest.raises(ConfigError, match=r"'coco18'.*coco17.*mpii16"):
        get_skeleton("coco18")
