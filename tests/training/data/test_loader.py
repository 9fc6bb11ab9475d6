"""Batches: the same for any number of workers and ranks, resumable anywhere, and honest about broken pictures."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpose.errors import InputError, SourceError, TrainingError
from sharpose.skeleton import COCO17
from sharpose.training.data.augment import AugmentSpec, PixelChange
from sharpose.training.data.coco import CocoDataset
from sharpose.training.data.loader import Batch, CropLoader
from sharpose.training.data.sample import Sample
from sharpose.training.objectives.pose import heatmap_targets

CROP, HEATMAP = (64, 32), (16, 8)


def loader(dataset: CocoDataset, **options: Any) -> CropLoader:
    settings: dict[str, Any] = {"batch_size": 4, "seed": 7, **options}
    spec = AugmentSpec(brightness=0.2, contrast=0.2, cut_out_probability=0.5)
    return CropLoader(dataset, spec, CROP, HEATMAP, **settings)


def tensors(batch: Batch) -> list[torch.Tensor]:
    *own, change = vars(batch).values()
    return own + list(change or ())


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def joined(batches: list[Batch]) -> Batch:
    joint = [torch.cat(parts) for parts in zip(*(tensors(batch) for batch in batches), strict=True)]
    images, targets, weights, keypoints, image_ids, annotation_ids = joint[:6]
    return Batch(images, targets, weights, keypoints, image_ids, annotation_ids, PixelChange(*joint[6:]))


def test_a_batch_holds_crops_targets_and_weights(coco_dataset: CocoDataset) -> None:
    batch = next(iter(loader(coco_dataset)))
    assert len(batch) == 4
    assert (batch.images.shape, batch.images.dtype) == ((4, 64, 32, 3), torch.uint8)
    assert batch.targets.shape == (4, 17, 16, 8)
    for row in range(4):
        targets, weights = heatmap_targets(batch.keypoints[row].numpy(), CROP, HEATMAP)
        assert np.array_equal(batch.targets[row].numpy(), targets)
        assert np.array_equal(batch.weights[row].numpy(), weights)
    assert batch.annotation_ids.tolist() == [100 + number for number in batch.image_ids.tolist()]


def test_trust_in_a_label_is_its_weight(coco_folder: Path) -> None:
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, weak_weight=0.5)
    batch = next(iter(CropLoader(dataset, AugmentSpec.none(), CROP, HEATMAP, batch_size=4, seed=0)))
    weak = batch.keypoints[..., 2] == 1
    assert set(batch.weights[weak].tolist()) == {0.5}
    assert set(batch.weights[~weak].tolist()) == {1.0}


def test_epochs_differ_and_each_has_everybody_once(coco_dataset: CocoDataset) -> None:
    batches = loader(coco_dataset, drop_last=False)
    epochs = [[number for batch in batches for number in batch.image_ids.tolist()] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(13))] * 2
    assert epochs[0] != epochs[1]
    assert (len(batches), batches.state()["epoch"], batches.state()["batch"]) == (4, 2, 0)
    in_order = loader(coco_dataset, drop_last=False, shuffle=False)
    assert [number for batch in in_order for number in batch.image_ids.tolist()] == list(range(13))


def test_the_number_of_workers_changes_nothing(coco_dataset: CocoDataset) -> None:
    alone, helped = loader(coco_dataset), loader(coco_dataset, workers=2)
    for _ in range(2):  # the second epoch meets the same worker processes
        first, second = list(alone), list(helped)
        assert len(first) == len(second) == 3
        assert all(same(a, b) for a, b in zip(first, second, strict=True))
    abandoned = list(islice(helped, 1))
    assert same(abandoned[0], next(iter(alone)))
    assert helped.state() == alone.state()
    assert same(next(iter(helped)), next(iter(alone)))


def test_it_goes_on_where_its_state_was_taken(coco_dataset: CocoDataset) -> None:
    whole = loader(coco_dataset)
    expected = [*whole, *whole]
    for taken in range(6):
        stopped = loader(coco_dataset)
        seen = list(islice(stopped, taken % 3)) if taken < 3 else [*stopped, *islice(stopped, taken % 3)]
        state = stopped.state()
        resumed = loader(coco_dataset, workers=1 if taken == 4 else 0)
        resumed.load_state(state)
        rest = [*resumed, *(resumed if taken < 3 else ())]
        assert all(same(a, b) for a, b in zip([*seen, *rest], expected, strict=True))


def test_ranks_together_see_what_one_process_sees(coco_dataset: CocoDataset) -> None:
    alone = list(loader(coco_dataset, batch_size=6))
    ranks = [list(loader(coco_dataset, batch_size=3, rank=rank, world_size=2)) for rank in range(2)]
    assert len(alone) == 2
    for whole, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert same(whole, joined(list(parts)))


def test_states_of_something_else_are_refused(coco_dataset: CocoDataset) -> None:
    batches = loader(coco_dataset)
    state = batches.state()
    for changes, message in (
        ({"seed": 8}, "seed 8"),
        ({"global_batch": 8}, "global_batch 8"),
        ({"people": 5}, "people 5"),
        ({"batch": 3}, "no epoch 0, batch 3 of 3"),
        ({"batch": "1"}, "whole numbers"),
    ):
        with pytest.raises(InputError, match=message):
            batches.load_state({**state, **changes})
    with pytest.raises(InputError, match="whole numbers"):
        batches.load_state({})


def test_arguments_out_of_range_are_refused(coco_dataset: CocoDataset) -> None:
    with pytest.raises(InputError, match="13 people, fewer than a batch of 14"):
        loader(coco_dataset, batch_size=14)
    with pytest.raises(InputError, match="rank in"):
        loader(coco_dataset, rank=2, world_size=2)
    with pytest.raises(InputError, match="drop_last"):
        loader(coco_dataset, world_size=2, drop_last=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_pictures_are_counted_and_replaced_up_to_a_limit(coco_dataset: CocoDataset, workers: int) -> None:
    coco_dataset.people[4].file.write_bytes(b"not a picture")
    coco_dataset.people[9].file.unlink()
    batches = loader(coco_dataset, drop_last=False, workers=workers, max_undecodable=2)
    numbers = [number for batch in batches for number in batch.image_ids.tolist()]
    assert len(numbers) == 13
    assert sorted(numbers) == [0, 1, 2, 3, 5, 5, 6, 7, 8, 10, 10, 11, 12]
    assert sorted(batches.undecodable.values()) == [1, 1]
    assert any("4.png: can't be decoded" in message for message in batches.undecodable)
    assert any("9.png: can't be read" in message for message in batches.undecodable)
    coco_dataset.people[0].file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"3 pictures can't be decoded, more than the 2 allowed; the last: picture"):
        list(loader(coco_dataset, drop_last=False, workers=workers, max_undecodable=2))


def test_without_substitutes_who_cannot_be_shown_is_left_out(coco_dataset: CocoDataset) -> None:
    for broken in (4, 5, 9):
        coco_dataset.people[broken].file.write_bytes(b"not a picture")
    batches = loader(coco_dataset, batch_size=2, drop_last=False, shuffle=False, substitute=False)
    for _ in range(2):
        numbers = [batch.image_ids.tolist() for batch in batches]
        assert numbers == [[0, 1], [2, 3], [6, 7], [8], [10, 11], [12]]  # the batch of 4 and 5 has nobody
    assert batches.state() == loader(coco_dataset, batch_size=2, drop_last=False).state() | {"epoch": 2}
    assert list(batches.undecodable.values()) == [2, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_that_can_be_decoded_is_an_error_in_one_line(coco_dataset: CocoDataset, workers: int) -> None:
    for person in coco_dataset.people:
        person.file.unlink(missing_ok=True)
    with pytest.raises(SourceError, match="13 pictures in a row can't be used") as caught:
        list(loader(coco_dataset, workers=workers))
    assert "\n" not in str(caught.value)


def test_without_heatmaps_there_are_no_targets(coco_dataset: CocoDataset) -> None:
    batches = CropLoader(coco_dataset, AugmentSpec(), CROP, None, batch_size=2, seed=0)
    batch = next(iter(batches)).to("cpu")
    assert batch.targets.shape == (2, 17, 0, 0)
    assert batch.weights.max() == 1


def test_closing_ends_the_workers_and_iterating_starts_new_ones(coco_dataset: CocoDataset) -> None:
    batches = loader(coco_dataset, workers=1)
    first = next(iter(batches))
    workers = multiprocessing.active_children()
    assert len(workers) >= 1
    batches.close()
    batches.close()
    assert not set(workers) & set(multiprocessing.active_children())
    expected = list(loader(coco_dataset))
    assert same(first, expected[0])
    assert same(next(iter(batches)), expected[1])


class _Garbage:
    """Holds itself, so that only the collector frees it; then it notes the process."""

    def __init__(self, file: Path) -> None:
        self.me, self.file = self, file

    def __del__(self) -> None:
        self.file.write_text(str(os.getpid()), "ascii")


def test_workers_do_not_free_what_they_inherit(
    coco_dataset: CocoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of ONNX Runtime that is garbage would wait there for threads that a forked process doesn't have."""
    load, freed = CocoDataset.load, tmp_path / "freed"

    def collect(self: CocoDataset, index: int, epoch: int) -> Sample:
        gc.collect()
        return load(self, index, epoch)

    monkeypatch.setattr(CocoDataset, "load", collect)
    gc.disable()
    try:
        _Garbage(freed)
        assert len(list(loader(coco_dataset, workers=1))) > 0
        assert not freed.exists()
    finally:
        gc.enable()
    gc.collect()
    assert freed.read_text("ascii") == str(os.getpid())


# PyTorch may notice the death once more, where it ends the workers.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_named_and_the_rest_can_be_loaded(coco_dataset: CocoDataset) -> None:
    batches, before = loader(coco_dataset, batch_size=1, workers=1), set(multiprocessing.active_children())
    walk = iter(batches)
    next(walk)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(TrainingError, match=r"was killed \(.+\); if memory ran out, take fewer `workers`"):
        list(walk)
    done = batches.state()["batch"]
    assert 1 <= done < len(batches)
    assert len(list(batches)) == len(batches) - done


threads_in_children = False  # whether a forked process has another thread from its beginning


def _start_thread() -> None:
    if threads_in_children:
        threading.Thread(target=time.sleep, args=[600], daemon=True).start()


os.register_at_fork(after_in_child=_start_thread)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who sent a signal")
def test_signals_to_the_process_group_leave_workers_to_their_parent(
    coco_dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a library starts a thread as soon as a worker is forked, as gRPC and PyTorch's own pool do."""
    monkeypatch.setattr(sys.modules[__name__], "threads_in_children", True)
    batches, before = loader(coco_dataset, batch_size=1, workers=1), set(multiprocessing.active_children())
    walk = iter(batches)
    made = [next(walk)]
    (worker,) = set(multiprocessing.active_children()) - before
    for name in ("TERM", "INT", "HUP", "TERM"):
        subprocess.run(["/bin/kill", f"-{name}", str(worker.pid)], check=True)  # not from this process
    made += walk
    assert all(same(one, other) for one, other in zip(made, loader(coco_dataset, batch_size=1), strict=True))
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
