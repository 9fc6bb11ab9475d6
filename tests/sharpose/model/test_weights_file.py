"""Files of weights: damaged, too large, and with sizes that are only claimed."""

import pickle
import random
import zipfile

import pytest
import torch

from sharpose.errors import CheckpointError
from sharpose.model.weights_file import read_checkpoint


def refused(path, *words):
    with pytest.raises(CheckpointError) as found:
        read_checkpoint(path)
    for word in words:
        assert word in str(found.value)


def saved(path, **options):
    """Writes an archive of a 3x4 and a 5 tensor; returns the entries of the archive."""
    state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5, dtype=torch.float16)}
    torch.save({"state_dict": state, "meta": {}}, path, **options)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.pth"
    numbers = saved(path)["a/data/0"]
    assert read_checkpoint(path)[0]["a"][2, 3] == 11
    content = bytearray(path.read_bytes())
    content[content.index(numbers) + 13] ^= 64
    path.write_bytes(content)
    refused(path, "damaged: a/data/0 in it has another checksum than it should")


def test_an_archive_without_checksums_is_read_with_a_note(tmp_path):
    path = tmp_path / "a.pth"
    torch.serialization.set_crc32_options(False)
    try:
        with pytest.raises(zipfile.BadZipFile):
            saved(path)
    finally:
        torch.serialization.set_crc32_options(True)
    tensors, _, notes = read_checkpoint(path)
    assert tensors["b"].tolist() == [0, 1, 2, 3, 4]
    assert notes == ("its archive has no checksums, so damage to it would go unnoticed",)


@pytest.mark.parametrize(("name", "kept", "claimed"), [("0", 44, 48), ("0", 0, 48), ("1", 9, 10)])
def test_a_storage_that_is_shorter_than_its_pickle_claims(tmp_path, name, kept, claimed):
    path = tmp_path / "a.pth"
    entries = saved(path)
    packed(path, entries)
    assert read_checkpoint(path)[0]["a"].shape == (3, 4)  # what the checks are about is the size alone
    packed(path, entries | {f"a/data/{name}": entries[f"a/data/{name}"][:kept]})
    refused(path, f"damaged: it claims {claimed} bytes of a/data/{name}, which has {kept}")
    del entries[f"a/data/{name}"]
    packed(path, entries)
    refused(path, f"damaged: it claims {claimed} bytes of a/data/{name}, which has 0")


def test_a_pickle_that_claims_gigabytes(tmp_path):
    path = tmp_path / "a.pth"
    entries = saved(path)
    pickled = entries["a/data.pkl"]
    assert pickled.count(b"K\x0ct") == 1  # 12, the last of a storage's five facts
    packed(path, entries | {"a/data.pkl": pickled.replace(b"K\x0ct", b"J\xff\xff\xff\x7ft")})
    refused(path, "damaged: it claims 8589934588 bytes of a/data/0, which has 48")


def test_a_pickle_of_millions_of_objects(tmp_path):
    path = tmp_path / "a.pth"
    packed(path, {"a/data.pkl": b"\x80\x02" + b"}" * (9 << 20) + b".", "a/version": b"3"})
    refused(path, "expected a pickle of at most 8388608 bytes, got 9437187")


def test_a_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    refused(tmp_path / "a.pth", "expected an archive without compression", "that unpack to 10000000")


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate(20 << 30)
    refused(tmp_path / "a.pth", "expected at most 17179869184 bytes, got 21474836480")


@pytest.mark.filterwarnings("error")
def test_damage_of_any_kind_is_an_error_of_ours(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "damaged.pth"
    sources = [pickle.dumps({"state_dict": {}}, protocol=protocol) for protocol in (2, 5)]
    for new_format in (True, False):
        torch.save(
            {"state_dict": {"a": torch.ones(3)}, "meta": {"epoch": 1}}, path, _use_new_zipfile_serialization=new_format
        )
        sources.append(path.read_bytes())
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        content = bytearray(rng.choice(sources))
        for _ in range(rng.randrange(4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.randrange(len(content) + 1)] if rng.random() < 0.5 else content)
        try:
            read_checkpoint(path)
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10
