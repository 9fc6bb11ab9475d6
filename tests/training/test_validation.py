import torch

from sharpose.training.validation import correct_keypoints


def test_pck_by_hand() -> None:
    labels = torch.tensor([[[0.0, 0, 2], [30, 40, 2], [10, 10, 2], [99, 99, 0]]])  # diagonal 50
    known = labels[..., 2] > 0
    found = labels.clone()
    found[0, 0, 0] += 2.5  # on the threshold of 0.05
    found[0, 1, 1] += 4.0  # within 0.1
    found[0, 2, 0] += 5.1  # outside
    assert correct_keypoints(found, labels, known).tolist() == [1.0, 2.0]


def test_nobody_labelled_counts_nothing() -> None:
    labels = torch.zeros(2, 3, 3)
    assert correct_keypoints(labels, labels, labels[..., 2] > 0).tolist() == [0.0, 0.0]
