"""The converter: every key fills its parameters, LoRA merged or kept, whole folders or none, the command."""

import argparse
import contextlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.checkpoints import load_checkpoint
from modeling_anomalygpt.cli.convert import add_arguments as add_convert_arguments
from modeling_anomalygpt.cli.convert import run as run_convert
from modeling_anomalygpt.conversion import checks as conversion_selftest
from modeling_anomalygpt.conversion import streams as published_sources
from modeling_anomalygpt.conversion.checks import ConversionReport, compare_keys
from modeling_anomalygpt.conversion.layout import lora_keys, parameter_origins, parameter_shapes, published_config
from modeling_anomalygpt.conversion.streams import SafetensorsWriter
from tests.clip_merges import write_merges
from tests.golden_checkpoints import full_size_shapes, write_imagebind_huge
from tests.published_files import GOLDEN, changed, run, vicuna_folder

REPOSITORY = Path(__file__).parents[2]
VICUNA_V0 = {"vocab_size": 32001, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_attention_heads": 32}


def command(published, output, *more):
    parser = argparse.ArgumentParser()
    add_convert_arguments(parser)
    paths = {"imagebind": "imagebind_huge.pth", "vicuna": "vicuna", "clip-bpe": "merges.txt"}
    paths |= {name: f"{name}/pytorch_model.pt" for name in ("pandagpt", "anomalygpt")}
    given = [text for name, path in paths.items() for text in (f"--{name}", str(published / path))]
    return parser.parse_args([*given, "--output", str(output), *more])


def converted(published, folder, *more):
    """Exit code and print of a conversion by command to float32 that is verified."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        return run_convert(command(published, folder, "--dtype", "float32", "--verify", *more)), printed.getvalue()


@pytest.fixture(scope="module")
def by_command(published, tmp_path_factory):
    """Two conversions: LoRA merged and kept, each with its folder, exit code and print."""
    work = tmp_path_factory.mktemp("converted")
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16)}
    old = work / "old"
    old.mkdir()
    for path in published.iterdir():
        (old / path.name).symlink_to(path)
    (old / "vicuna").unlink()
    vicuna_folder(published, old / "vicuna", None, lambda tensors: tensors.update(rotary))
    return {
        "merged": (work / "merged", *converted(published, work / "merged")),
        "kept": (work / "kept", *converted(old, work / "kept", "--keep-lora")),
    }


@pytest.fixture(scope="module")
def merged(by_command):
    return by_command["merged"][0]


# Full sizes


@pytest.mark.parametrize(
    ("width", "depth", "mlp", "heads", "billions"), [(4096, 32, 11008, 32, 7.8), (5120, 40, 13824, 40, 14.2)]
)
def test_every_key_of_the_published_sizes_fills_its_parameters(width, depth, mlp, heads, billions):
    published = full_size_shapes(GOLDEN, width, depth, mlp)
    config = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": mlp}
    config = published_config(published, VICUNA_V0 | config | {"num_attention_heads": heads}, image_token_index=32000)
    assert config.out_indices == [8, 16, 24, 32]
    assert (config.num_prompt_tokens, config.map_size, config.vision_config.num_attention_heads) == (18, 224, 16)
    parameters = parameter_shapes(config)
    origins = parameter_origins(config)
    report = ConversionReport()
    compare_keys(report, origins, parameters, published, depth)
    assert report.is_clean, str(report)
    assert set(origins) == set(parameters)
    uses = Counter((origin.file, origin.key) for origin in origins.values())
    assert all(count == (3 if ".in_proj_" in key else 1) for (_, key), count in uses.items())
    lora = {key for pair in lora_keys(depth).values() for key in pair}
    for file, shapes in published.items():
        unused = set(shapes) - {key for used_file, key in uses if used_file == file} - lora
        assert all(re.search(r"audio|depth|thermal|imu|text\.mask|text\.1\.log_logit_scale", key) for key in unused)
    total = sum(math.prod(shape) for shape in parameters.values())
    assert total == pytest.approx(billions * 1e9, rel=0.01)


# What comes out


def test_the_folder_loads_without_missing_or_unexpected_keys(merged):
    model, info = AnomalyGPTForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert not any(info.values())
    assert model.config.architectures == ["AnomalyGPTForConditionalGeneration"]
    processor = AnomalyGPTProcessor.from_pretrained(merged)
    assert processor.image_token_id == model.config.image_token_id
    assert model.generation_config.eos_token_id == processor.stop_token_ids
    assert model.generation_config.suppress_tokens == [processor.image_token_id]


def test_kept_lora_gives_the_merged_models_logits(merged, by_command):
    pytest.importorskip("peft")
    kept, _, printed = by_command["kept"]
    assert "LoRA kept as an adapter" in printed
    ids = {"input_ids": torch.arange(3, 20)[None]}
    with torch.no_grad():
        whole = AnomalyGPTForConditionalGeneration.from_pretrained(merged)(**ids).logits
        base = AnomalyGPTForConditionalGeneration.from_pretrained(kept)(**ids).logits
        adapted = AutoModelForImageTextToText.from_pretrained(kept / "lora")(**ids).logits
    _, processor = load_checkpoint(kept / "lora", device="cpu")  # as every command loads it
    assert processor.tokenizer.get_vocab() == AnomalyGPTProcessor.from_pretrained(kept).tokenizer.get_vocab()
    torch.testing.assert_close(adapted, whole, rtol=1e-4, atol=1e-4)
    assert (base - whole).abs().max() > 0.1


def test_the_command_converts_into_an_empty_folder_and_keeps_the_localizer_in_float32(published, tmp_path, capsys):
    (tmp_path / "half").mkdir()
    assert run_convert(command(published, tmp_path / "half")) == 0
    printed = capsys.readouterr().out
    assert f"imagebind: 227 tensors from {published / 'imagebind_huge.pth'}" in printed
    assert f"parameters to {tmp_path / 'half'}" in printed
    for name, tensor in load_file(tmp_path / "half" / "model.safetensors").items():
        assert tensor.dtype == (torch.float32 if name.startswith("model.localizer.") else torch.bfloat16), name
    model = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_shards_are_no_larger_than_asked_and_hold_the_same(published, merged, tmp_path):
    run(published, tmp_path / "shards", max_shard_size="5MB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    whole, parts = load_file(merged / "model.safetensors"), {}
    for shard in shards:
        tensors = load_file(shard)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 5e6 or len(tensors) == 1
        parts |= tensors
    assert len(shards) > 2
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_llama_with_vicunas_delta_is_vicuna(published, merged, tmp_path):
    whole = torch.load(published / "vicuna" / "pytorch_model.bin")
    generator = torch.Generator().manual_seed(0)
    delta = {key: 0.01 * torch.randn(value.shape, generator=generator) for key, value in whole.items()}
    vocabulary = ("model.embed_tokens.weight", "lm_head.weight")
    base = {key: (value - delta[key])[: 511 if key in vocabulary else None] for key, value in whole.items()}
    for key in vocabulary:
        delta[key][511] = whole[key][511]
    llama = vicuna_folder(published, tmp_path / "llama", {"vocab_size": 511}, lambda _: base)
    folder = vicuna_folder(published, tmp_path / "delta", None, lambda _: delta)
    run(published, tmp_path / "out", vicuna=None, llama=llama, vicuna_delta=folder)
    expected, ours = load_file(merged / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])


def test_the_folder_states_its_licences_and_what_was_read_from_where(published, merged):
    card = (merged / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    assert "PandaGPT CC BY-NC 4.0" in card
    report = json.loads((merged / "conversion_report.json").read_text())
    assert report["files"]["imagebind"] == str(published / "imagebind_huge.pth")
    assert report["num_tensors"] == {"imagebind": 227, "pandagpt": 18, "anomalygpt": 21, "language_model": 21}
    assert sum(report["ignored"].values()) == 94
    assert report["missing"] == report["unexpected"] == report["misshapen"] == []


def test_vicunas_spare_row_becomes_the_placeholder(published, tmp_path):
    def padded(tensors):
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[key] = torch.cat([tensors[key], torch.zeros(1, 64)])

    vicuna = vicuna_folder(published, tmp_path / "vicuna", {"vocab_size": 513}, padded)
    run(published, tmp_path / "out", vicuna=vicuna)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = AnomalyGPTProcessor.from_pretrained(tmp_path / "out")
    assert model.config.image_token_id == processor.image_token_id == 512
    assert model.lm_head.out_features == 513


# Output folder


def test_an_interrupted_conversion_leaves_nothing(published, tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(SafetensorsWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(published, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_contents_and_an_unknown_dtype_are_refused(published, tmp_path):
    (tmp_path / "keep").touch()
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        run(published, tmp_path)
    with pytest.raises(ValueError, match="`dtype` must be one of bfloat16, float16, float32, got 'int8'"):
        run(published, tmp_path / "out", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


def test_a_small_disk_is_noticed_before_writing(published, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"`output` needs 0\.0 GB, got 0\.0 GB free"):
        run(published, tmp_path / "out")


def test_hub_ids_are_downloaded_and_misspelt_paths_are_not(published, tmp_path, monkeypatch):
    asked = []

    def download(repo, allow_patterns=None):
        asked.append(repo)
        return str(published / "vicuna")

    monkeypatch.setattr(published_sources, "snapshot_download", download)
    monkeypatch.setattr(published_sources, "hf_hub_download", lambda repo, name: str(published / "merges.txt"))
    run(published, tmp_path / "out", vicuna="someone/vicuna-7b-v0", clip_bpe="openai/clip-vit-large-patch14")
    assert asked == ["someone/vicuna-7b-v0"]
    for arguments, kind, message in (
        ({"vicuna": "/nowhere/at/all"}, FileNotFoundError, "No folder at '/nowhere/at/all' for `--vicuna`"),
        ({"vicuna": published / "vicuna" / "pytorch_model.bin"}, ValueError, "`--vicuna` must be a folder"),
        ({"clip_bpe": "/nowhere/vocabulary.gz"}, FileNotFoundError, "`--clip-bpe`"),
    ):
        with pytest.raises(kind, match=message):
            run(published, tmp_path / "out2", **arguments)
    for name in ("config.json", "tokenizer.model"):
        folder = vicuna_folder(published, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"No {re.escape(name)} in"):
            run(published, tmp_path / "out2", vicuna=folder)


# Command and self-test


def test_the_command_shows_all_wrong_keys(published, tmp_path, capsys):
    def broken(tensors):
        return {key: value for key, value in tensors.items() if not re.search(r"(meta_net\.\d+|fc\.\d)\.bias", key)}

    args = command(published, tmp_path / "out")
    args.anomalygpt = changed(published / "anomalygpt" / "pytorch_model.pt", tmp_path / "a.pt", broken)
    with pytest.raises(ValueError, match="do not fit together"):
        run_convert(args)
    printed = capsys.readouterr().err
    assert "missing (10):" in printed
    assert "anomalygpt: prompt_learner.meta_net.12.bias" in printed
    assert "... and 2 more" in printed


@pytest.mark.parametrize("kind", ["merged", "kept"])
def test_verify_tells_what_a_failing_stage_means(by_command, kind):
    _, code, printed = by_command[kind]
    assert code == 1
    assert "1 language model: FAILED: the language model itself answers badly" in printed
    assert "2 picture: FAILED" in printed
    assert "3 anomaly: FAILED" in printed
    checked = "left out: 1 x rotary frequencies of the language model (checked, then computed)"
    assert (checked in printed) == (kind == "kept")


def test_verify_passes_when_sentences_are_likely_and_the_answer_is_yes_or_no(merged, monkeypatch):
    monkeypatch.setattr(conversion_selftest, "_surprise", lambda *_: 1.0)
    monkeypatch.setattr(conversion_selftest, "_answer", lambda *_: "No, there is no anomaly in the image.")
    stages = conversion_selftest.verify(merged)
    assert [stage.passed for stage in stages] == [True, True, True]
    assert "1 language model: passed" in str(stages[0])


# Real size

CONVERT = """
import json, re, sys, time
from modeling_anomalygpt.conversion.convert import convert
report = convert(**json.loads(sys.argv[1]), progress=False)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"peak": peak, "parameters": report.num_parameters}))
"""


@pytest.mark.slow
def test_imagebind_huge_is_converted_within_the_memory_bound_and_runs(tmp_path):
    files = {part: str(path) for part, path in write_imagebind_huge(GOLDEN, tmp_path).items()}
    arguments = files | {"clip_bpe": str(write_merges(tmp_path / "merges.txt")), "output": str(tmp_path / "out")}
    command = [sys.executable, "-c", CONVERT, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["peak"] <= Path(files["imagebind"]).stat().st_size + 2e9
    assert measured["parameters"] > 0.98e9
    Path(files["imagebind"]).unlink()
    model = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto").eval()
    processor = AnomalyGPTProcessor.from_pretrained(tmp_path / "out")
    picture = GOLDEN / "images" / "spot.png"
    with torch.no_grad():
        outputs = model(**processor(images=picture, text="Is there any anomaly?", return_tensors="pt"))
    assert outputs.anomaly_map.shape == (1, 224, 224)
    assert outputs.anomaly_map.isfinite().all()
    assert (model.config.vision_config.hidden_size, model.config.vision_config.num_hidden_layers) == (1280, 32)
