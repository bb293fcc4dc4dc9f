"""A merged checkpoint is as large as its parts and as readable as any other file."""

import json
import shutil
import stat

import peft
import pytest
import torch
from safetensors.torch import load_file

from modeling_anomalygpt.checkpoints import load_checkpoint
from modeling_anomalygpt.evaluation.seen_data import training_record
from modeling_anomalygpt.hub.merging import merge_adapter
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from tests.tiny import tiny_pair


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A half-precision checkpoint, and an adapter in full precision with a part of its own."""
    folder = tmp_path_factory.mktemp("merging")
    model, processor = tiny_pair()
    model.half().save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    model, _ = load_checkpoint(folder / "base", device="cpu")
    settings = {"r": 2, "target_modules": r".*language_model.*q_proj", "modules_to_save": ["prompt_learner"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    adapted.save_pretrained(folder / "adapter")
    processor.save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def whole(adapter):
    merge_adapter(adapter, adapter.parent / "merged")
    return adapter.parent / "merged"


def test_weights_keep_the_dtype_in_which_base_or_adapter_store_them(adapter, whole):
    base, merged = (load_file(folder / "model.safetensors") for folder in (adapter.parent / "base", whole))
    trained = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in merged.items():
        own = trained.get(f"base_model.model.{name}")
        assert tensor.dtype == (base[name] if own is None else own).dtype, name
        if own is not None:
            assert torch.equal(tensor, own), name
    assert torch.float16 in {tensor.dtype for tensor in merged.values()}
    changed = [name for name in merged if not torch.equal(merged[name].float(), base[name].float())]
    assert any("q_proj" in name for name in changed)


def test_dtypes_are_read_through_the_links_of_the_cache(adapter, whole, tmp_path, monkeypatch):
    """Laid out as huggingface_hub does: snapshots hold links, what they lead to has no name of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source, name in ((adapter.parent / "base", "base"), (adapter, "adapter")):
        place = tmp_path / f"models--me--{name}"
        for part in ("blobs", "refs", "snapshots/0"):
            (place / part).mkdir(parents=True)
        (place / "refs" / "main").write_text("0")
        for number, file in enumerate(sorted(source.iterdir())):
            shutil.copyfile(file, place / "blobs" / str(number))
            (place / "snapshots" / "0" / file.name).symlink_to(f"../../blobs/{number}")
    place = tmp_path / "models--me--adapter"
    (place / ".no_exist" / "0").mkdir(parents=True)
    (place / ".no_exist" / "0" / "config.json").touch()
    config = place / "snapshots" / "0" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "me/base"}))
    merge_adapter("me/adapter", tmp_path / "merged")
    merged, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", whole))
    assert {name: one.dtype for name, one in merged.items()} == {name: one.dtype for name, one in expected.items()}
    assert all(torch.equal(one, expected[name]) for name, one in merged.items())


def test_the_data_of_base_and_adapter_are_both_told_of_the_merged_checkpoint(adapter, tmp_path):
    for name in ("base", "adapter"):
        shutil.copytree(adapter.parent / name, tmp_path / name)
        (tmp_path / name / "training_data.json").write_text(json.dumps({"datasets": [{"name": name}]}))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}))
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert {one["name"] for one in training_record(tmp_path / "merged")} == {"base", "adapter"}


def test_a_dtype_that_is_asked_for_holds_for_all(adapter, tmp_path):
    merge_adapter(adapter, tmp_path / "merged", dtype="float32")
    assert {one.dtype for one in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.float32}


def test_files_can_be_read_by_whom_any_new_file_can_be_read(whole, tmp_path):
    (tmp_path / "new").touch()
    (tmp_path / "folder").mkdir()
    for path in whole.rglob("*"):
        other = tmp_path / ("folder" if path.is_dir() else "new")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode), path.name


def test_what_a_prompt_adapter_trained_is_not_rounded(adapter, tmp_path):
    model, processor = load_checkpoint(adapter.parent / "base", device="cpu")
    adapted = prepare_for_tuning(model, TuningArguments("prompt", num_virtual_tokens=2))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    inner = {name: name.removeprefix("base_model.") for name in trained}
    kept = {name: merged[own] for name, own in inner.items() if own in merged}
    assert len(kept) > 2
    for name, tensor in kept.items():
        assert torch.equal(tensor, trained[name]), name
