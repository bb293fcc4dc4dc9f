"""Reading checkpoints tensor by tensor, writing shards in any order."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from modeling_anomalygpt.conversion import streams
from modeling_anomalygpt.conversion.streams import Checkpoint, CheckpointFile, SafetensorsWriter, parse_size

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.tensor(2.5)}


def save_as_before_pytorch_1_6(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save"),
    [("x.pth", torch.save), ("old.pth", save_as_before_pytorch_1_6), ("x.safetensors", save_file)],
)
def test_a_file_gives_shapes_and_tensors_and_is_refused_when_it_is_cut_off(tmp_path, name, save):
    path = tmp_path / name
    save(TENSORS, path)
    file = CheckpointFile(path)
    assert file.shapes == {"a": (2, 3), "b": (4,), "c": ()}
    for key, tensor in TENSORS.items():
        torch.testing.assert_close(file[key], tensor)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"must be a complete checkpoint file, got [\d,]+ bytes"):
        CheckpointFile(path)


def test_a_file_is_mapped_anew_when_much_was_read(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "x.pth")
    monkeypatch.setattr(streams, "_REMAP_AFTER_BYTES", 20)
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: loads.append(1) or load(*args, **kwargs))
    file = CheckpointFile(tmp_path / "x.pth")
    for _ in range(3):
        torch.testing.assert_close(file["a"], TENSORS["a"])
    assert len(loads) == 3


def test_a_pickle_with_anything_but_tensors_is_refused_and_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": Payload()}))
    torch.save({"a": TENSORS["a"], "code": Payload()}, tmp_path / "y.bin")
    for name in ("x.bin", "y.bin"):
        with pytest.raises(ValueError, match=f"{name}' must hold tensors only"):
            CheckpointFile(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": TENSORS}, "must be a flat dictionary of tensors, got dict under 'model'"),
        ({"epoch": 3}, "must be a flat dictionary of tensors, got int under 'epoch'"),
        ([TENSORS["a"]], "must be a dictionary of tensors, got list"),
    ],
)
def test_nested_and_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        CheckpointFile(tmp_path / "x.pth")


def test_a_folder_of_shards_is_one_collection(tmp_path):
    for i, key in enumerate(TENSORS, 1):
        torch.save({key: TENSORS[key]}, tmp_path / f"pytorch_model-{i:05d}-of-00003.bin")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.shapes == {"a": (2, 3), "b": (4,), "c": ()}
    assert "a" in checkpoint
    torch.testing.assert_close(checkpoint["b"], TENSORS["b"])
    torch.save({"a": TENSORS["a"]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Key 'a' is in .* and in "):
        Checkpoint(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file or folder at"):
        Checkpoint(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="No weights in .*Expected model"):
        Checkpoint(tmp_path)
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"a": TENSORS["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 2 shards.*pytorch_model-00002-of-00002\.bin"):
        Checkpoint(tmp_path)


def test_the_writer_refuses_wrong_shapes(tmp_path):
    writer = SafetensorsWriter(tmp_path, {key: (tuple(one.shape), one.dtype) for key, one in TENSORS.items()})
    with pytest.raises(ValueError, match=r"'a' must have shape \(2, 3\), got \(3, 2\)"):
        writer.write("a", TENSORS["a"].T)


def test_sizes_are_read_or_refused():
    for text, size in (("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5KiB", 1536), (7, 7)):
        assert parse_size(text) == size
    for text in ("2", "GB", "0GB", "-1MB", 0):
        with pytest.raises(ValueError, match="`max_shard_size` must be a size such as '2GB'"):
            parse_size(text)
