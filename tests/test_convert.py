"""The converter: refusals by name before anything is written, whole folders or none, LoRA merged or kept."""

import argparse
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from modeling_anomalygpt import (
    AnomalyGPTForConditionalGeneration,
    AnomalyGPTProcessor,
    conversion_selftest,
    published_sources,
)
from modeling_anomalygpt.checkpoint_streams import SafetensorsWriter
from modeling_anomalygpt.conversion_checks import (
    ConversionReport,
    check_llama_config,
    check_rotary_frequencies,
    check_vocabulary,
    compare_keys,
)
from modeling_anomalygpt.convert_anomalygpt_to_hf import add_convert_arguments, convert, run_convert
from modeling_anomalygpt.published_configuration import parameter_shapes, published_config
from modeling_anomalygpt.published_layout import infer_sizes, lora_keys, parameter_origins
from tests.clip_merges import write_merges
from tests.golden_checkpoints import full_size_shapes, write_checkpoints

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
VICUNA_V0 = {"vocab_size": 32001, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_attention_heads": 32}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The four published files and CLIP's merges; tests must not change them."""
    folder = tmp_path_factory.mktemp("published")
    write_checkpoints(GOLDEN, folder)
    write_merges(folder / "merges.txt")
    return folder


@pytest.fixture(scope="module")
def merged(published, tmp_path_factory):
    """A conversion with default arguments but float32."""
    output = tmp_path_factory.mktemp("converted") / "merged"
    run(published, output)
    return output


def run(published, output, **changes):
    arguments = {
        "imagebind": published / "imagebind_huge.pth",
        "vicuna": published / "vicuna",
        "pandagpt": published / "pandagpt" / "pytorch_model.pt",
        "anomalygpt": published / "anomalygpt" / "pytorch_model.pt",
        "clip_bpe": published / "merges.txt",
        "output": output,
        "dtype": "float32",
        "progress": False,
    }
    return convert(**(arguments | changes))


def changed(path: Path, target: Path, change) -> Path:
    """A copy of a checkpoint whose dictionary went through `change`."""
    tensors = torch.load(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(change(tensors) or tensors, target)
    return target


def vicuna_folder(published, target: Path, config: dict | None = None, change=None) -> Path:
    shutil.copytree(published / "vicuna", target)
    values = json.loads((target / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(values))
    if change:
        changed(target / "pytorch_model.bin", target / "pytorch_model.bin", change)
    return target


# Full sizes


@pytest.mark.parametrize(
    ("width", "depth", "mlp", "heads", "billions"), [(4096, 32, 11008, 32, 7.8), (5120, 40, 13824, 40, 14.2)]
)
def test_every_key_of_the_published_sizes_fills_its_parameters(width, depth, mlp, heads, billions):
    published = full_size_shapes(GOLDEN, width, depth, mlp)
    sizes = infer_sizes(published["imagebind"], published["pandagpt"], published["anomalygpt"])
    config = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": mlp}
    config = published_config(sizes, VICUNA_V0 | config | {"num_attention_heads": heads}, image_token_index=32000)
    assert config.out_indices == [8, 16, 24, 32]
    assert (config.num_prompt_tokens, config.map_size, config.vision_config.num_attention_heads) == (18, 224, 16)
    parameters = parameter_shapes(config)
    origins = parameter_origins(sizes, depth)
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


def test_a_parameter_is_its_published_tensor(published, merged):
    ours = load_file(merged / "model.safetensors")
    imagebind = torch.load(published / "imagebind_huge.pth")
    q, k, v = imagebind["modality_trunks.vision.blocks.3.attn.in_proj_weight"].view(3, 64, 64)
    for name, expected in (("q", q), ("k", k), ("v", v)):
        key = f"model.vision_tower.encoder.layers.3.self_attn.{name}_proj.weight"
        torch.testing.assert_close(ours[key], expected)
    kernel = imagebind["modality_preprocessors.vision.rgbt_stem.proj.1.weight"]
    expected = kernel[:, :, 0] + kernel[:, :, 1]
    torch.testing.assert_close(ours["model.vision_tower.embeddings.patch_embedding.weight"], expected)


def test_lora_is_merged_as_its_product(published, merged):
    key = "model.layers.1.self_attn.v_proj.weight"
    delta = torch.load(published / "pandagpt" / "pytorch_model.pt")
    prefix = "llama_model.base_model.model.model.layers.1.self_attn.v_proj"
    down, up = delta[f"{prefix}.lora_A.default.weight"], delta[f"{prefix}.lora_B.default.weight"]
    base = torch.load(published / "vicuna" / "pytorch_model.bin")[key]
    ours = load_file(merged / "model.safetensors")["model.language_model.layers.1.self_attn.v_proj.weight"]
    torch.testing.assert_close(ours, base + torch.einsum("or,ri->oi", up, down))


def test_kept_lora_gives_the_merged_models_logits(published, merged, tmp_path):
    pytest.importorskip("peft")
    report = run(published, tmp_path / "kept", keep_lora=True)
    assert "LoRA kept as an adapter" in str(report)
    ids = {"input_ids": torch.arange(3, 20)[None]}
    with torch.no_grad():
        whole = AnomalyGPTForConditionalGeneration.from_pretrained(merged)(**ids).logits
        base = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "kept")(**ids).logits
        adapted = AutoModelForImageTextToText.from_pretrained(tmp_path / "kept" / "lora")(**ids).logits
    torch.testing.assert_close(adapted, whole, rtol=1e-4, atol=1e-4)
    assert (base - whole).abs().max() > 0.1


def test_dtype_holds_for_all_but_the_localizer(published, tmp_path):
    run(published, tmp_path / "half", dtype="bfloat16")
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


def test_the_folder_states_its_licences_and_its_parts(merged):
    card = (merged / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    assert "pytorch_model.pt" in card
    assert "PandaGPT CC BY-NC 4.0" in card


def test_the_report_says_what_was_read_from_where(published, merged):
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


# Strictness


LORA = "llama_model.base_model.model.model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(
    ("file", "absent", "enlarged"),
    [
        ("imagebind_huge.pth", "modality_trunks.text.blocks.1.mlp.fc2.bias", "modality_heads.vision.0.bias"),
        ("pandagpt/pytorch_model.pt", "llama_proj.bias", f"{LORA}.lora_B.default.weight"),
        ("pandagpt/pytorch_model.pt", f"{LORA}.lora_B.default.weight", "llama_proj.bias"),
        ("anomalygpt/pytorch_model.pt", "image_decoder.fc.2.weight", "image_decoder.fc.0.bias"),
        ("vicuna/pytorch_model.bin", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"),
    ],
)
def test_wrong_keys_are_named_and_nothing_is_written(published, tmp_path, file, absent, enlarged):
    def broken(tensors):
        tensors["zzz.unheard_of"] = torch.ones(1)
        del tensors[absent]
        tensors[enlarged] = torch.cat([tensors[enlarged], tensors[enlarged][-1:]])

    part, path = file.split("/")[0].split("_")[0], changed(published / file, tmp_path / file, broken)
    if part == "vicuna":
        path = path.parent
        for name in ("config.json", "tokenizer.model"):
            shutil.copy(published / "vicuna" / name, path)
    with pytest.raises(ValueError, match="1 missing .*; 1 unexpected .*; 1 misshapen .*Nothing was written") as error:
        run(published, tmp_path / "out", **{part: path})
    first_line, report = str(error.value).split("\n", 1)
    for key in (absent, enlarged, "zzz.unheard_of"):
        assert key in first_line
        assert key in report
    assert not (tmp_path / "out").exists()


def test_swapped_files_are_recognised(published, tmp_path):
    panda, anomaly = (published / name / "pytorch_model.pt" for name in ("pandagpt", "anomalygpt"))
    with pytest.raises(
        ValueError, match="`--pandagpt` must be a PandaGPT delta.*is an AnomalyGPT delta.*`--anomalygpt`"
    ):
        run(published, tmp_path / "out", pandagpt=anomaly, anomalygpt=panda)
    with pytest.raises(ValueError, match="`--imagebind` must be an ImageBind checkpoint.*is a LLaMA language model"):
        run(published, tmp_path / "out", imagebind=published / "vicuna" / "pytorch_model.bin")
    torch.save({"state": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="`--anomalygpt` must be an AnomalyGPT delta.*with the keys state"):
        run(published, tmp_path / "out", anomalygpt=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 32000}, "vocabulary 32000 instead of 32001"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05 instead of 1e-06"),
        ({"max_position_embeddings": 4096}, "context 4096 instead of 2048"),
        ({"rope_theta": 500000.0}, "rotary base 500000.0 instead of 10000"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rotary base 500000.0 instead of 10000"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"scaled rotary positions \('linear'\)"),
        ({"num_key_value_heads": 8}, "8 key-value heads instead of 32"),
        ({"model_type": "mistral"}, "model_type 'mistral' instead of 'llama'"),
    ],
)
def test_other_language_models_are_refused_by_what_differs(values, message):
    check_llama_config(VICUNA_V0, "here")
    with pytest.raises(ValueError, match=f"must be Vicuna version 0, got 'here' with .*{message}"):
        check_llama_config(VICUNA_V0 | values, "here")


def test_all_deviations_are_named_at_once():
    with pytest.raises(ValueError, match="32000.*1e-05.*4096"):
        check_llama_config({"vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}, "llama-2")


def test_a_foreign_language_model_is_refused_before_anything_is_written(published, tmp_path):
    folder = vicuna_folder(published, tmp_path / "v1.5", {"rms_norm_eps": 1e-5})
    with pytest.raises(ValueError, match=r"v1\.5' with rms_norm_eps 1e-05"):
        run(published, tmp_path / "out", vicuna=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("pieces", "rows"), [(32000, 32000), (32000, 32002), (512, 511), (512, 514)])
def test_vocabularies_that_do_not_belong_together_are_refused(pieces, rows):
    with pytest.raises(ValueError, match=f"for a tokenizer of {pieces} pieces, got {rows}"):
        check_vocabulary(pieces, rows)


def test_matching_vocabularies_are_accepted():
    for pieces, rows in ((32000, 32001), (512, 512), (512, 513)):
        check_vocabulary(pieces, rows)


def test_stored_rotary_frequencies_are_checked(published, tmp_path):
    frequencies = 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16)
    check_rotary_frequencies(frequencies.half(), "inv_freq")
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    good = vicuna_folder(published, tmp_path / "good", None, lambda tensors: tensors.update({key: frequencies}))
    report = run(published, tmp_path / "out", vicuna=good)
    assert report.ignored["rotary frequencies of the language model (checked, then computed)"] == 1
    bad = vicuna_folder(published, tmp_path / "bad", None, lambda tensors: tensors.update({key: frequencies / 4}))
    with pytest.raises(ValueError, match="inv_freq` must be the rotary frequencies of base 10000"):
        run(published, tmp_path / "out2", vicuna=bad)


def test_deltas_without_their_base_and_bases_without_their_delta_are_refused(published, tmp_path):
    vicuna = published / "vicuna"
    for arguments, given in (
        ({"vicuna": None}, "got none"),
        ({"vicuna": None, "vicuna_delta": vicuna}, "got --vicuna-delta"),
        ({"vicuna": None, "llama": vicuna}, "got --llama"),
        ({"llama": vicuna}, "got --vicuna and --llama"),
    ):
        with pytest.raises(ValueError, match=f"`--llama` together with `--vicuna-delta`, {given}"):
            run(published, tmp_path / "out", **arguments)
    delta = vicuna_folder(
        published, tmp_path / "delta", None, lambda tensors: {key: 0.01 * value for key, value in tensors.items()}
    )
    with pytest.raises(ValueError, match="this is a Vicuna delta. Pass it as `--vicuna-delta`"):
        run(published, tmp_path / "out", vicuna=delta)


def test_deltas_that_do_not_fit_their_base_are_refused(published, tmp_path):
    def rows(count, width=64, scale=1.0):
        def change(tensors):
            small = {key: scale * value for key, value in tensors.items()}
            small["model.embed_tokens.weight"] = small["model.embed_tokens.weight"][:count, :width]
            return small

        return change

    llama = vicuna_folder(published, tmp_path / "llama", None, rows(511))
    llama_2 = vicuna_folder(published, tmp_path / "llama-2", {"rms_norm_eps": 1e-5}, rows(511))
    fitting = vicuna_folder(published, tmp_path / "fitting", None, rows(512, scale=0.01))
    with pytest.raises(ValueError, match="`--llama` must be the first LLaMA, got .*llama-2' with rms_norm_eps 1e-05"):
        run(published, tmp_path / "out", vicuna=None, llama=llama_2, vicuna_delta=fitting)
    cases = {
        "v1.1": (rows(511, scale=0.01), "must have 512 vocabulary rows, one more than `--llama`, got 511"),
        "13b": (rows(512, width=48, scale=0.01), "must have the width of `--llama`, 64, got 48"),
        "whole": (rows(512), "this is a complete model"),
    }
    for name, (change, message) in cases.items():
        delta = vicuna_folder(published, tmp_path / name, None, change)
        with pytest.raises(ValueError, match=message):
            run(published, tmp_path / "out", vicuna=None, llama=llama, vicuna_delta=delta)


def test_a_delta_for_another_width_is_refused(published, tmp_path):
    def wider(tensors):
        tensors["llama_proj.weight"] = torch.zeros(96, 40)

    panda = changed(published / "pandagpt" / "pytorch_model.pt", tmp_path / "p.pt", wider)
    with pytest.raises(ValueError, match="`--pandagpt` must be trained for .* width 64 .*got a delta for width 96"):
        run(published, tmp_path / "out", pandagpt=panda)

    def narrower(tensors):
        tensors["prompt_learner.base_prompts"] = torch.zeros(9, 32)

    anomaly = changed(published / "anomalygpt" / "pytorch_model.pt", tmp_path / "a.pt", narrower)
    with pytest.raises(ValueError, match="`--anomalygpt` must be trained for .* width 64 .*got a delta for width 32"):
        run(published, tmp_path / "out", anomalygpt=anomaly)


def test_lora_of_another_width_is_named(published, tmp_path):
    def wrong(tensors):
        for key in tensors:
            if ".lora_A." in key:
                tensors[key] = torch.zeros(4, 96)

    panda = changed(published / "pandagpt" / "pytorch_model.pt", tmp_path / "p.pt", wrong)
    with pytest.raises(ValueError, match=r"8 misshapen(.|\n)*lora_A.default.weight is \(4, 96\), axis 1 must be 64"):
        run(published, tmp_path / "out", pandagpt=panda)


def test_a_vision_tower_that_was_cut_off_is_refused(published, tmp_path):
    def shorter(tensors):
        return {key: value for key, value in tensors.items() if "vision.blocks.7." not in key}

    imagebind = changed(published / "imagebind_huge.pth", tmp_path / "i.pth", shorter)
    with pytest.raises(ValueError, match="must have a depth of four equal parts, got 7 blocks"):
        run(published, tmp_path / "out", imagebind=imagebind)
    with pytest.raises(ValueError, match=r"one image_decoder layer for each of the read-out blocks \[1, 2\], got 4"):
        run(published, tmp_path / "out", out_indices=[1, 2])


def test_a_missing_tensor_that_tells_a_size_is_named(published, tmp_path):
    def change(tensors):
        return {key: value for key, value in tensors.items() if key != "prompt_learner.meta_net.6.weight"}

    anomaly = changed(published / "anomalygpt" / "pytorch_model.pt", tmp_path / "a.pt", change)
    with pytest.raises(ValueError, match=r"`anomalygpt` must hold the key 'prompt_learner\.meta_net\.6\.weight'"):
        run(published, tmp_path / "out", anomalygpt=anomaly)


def test_heads_must_divide_the_widths(published, tmp_path):
    with pytest.raises(ValueError, match="must divide the text tower's width 48, got 32"):
        run(published, tmp_path / "out", num_attention_heads=32)


def test_undefined_numbers_are_refused(published, tmp_path):
    def undefined(tensors):
        tensors["llama_proj.bias"][3] = torch.nan

    panda = changed(published / "pandagpt" / "pytorch_model.pt", tmp_path / "p.pt", undefined)
    with pytest.raises(ValueError, match=r"must hold finite numbers.*'llama_proj\.bias'"):
        run(published, tmp_path / "out", pandagpt=panda)
    assert [path.name for path in tmp_path.iterdir()] == ["p.pt"]


# Output folder


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(published, tmp_path, monkeypatch, error):
    def interrupted(self):
        raise error

    monkeypatch.setattr(SafetensorsWriter, "finish", interrupted)
    with pytest.raises(error):
        run(published, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_contents_is_not_touched_and_an_empty_one_is_used(published, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        run(published, tmp_path / "full")
    run(published, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


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
    with pytest.raises(FileNotFoundError, match="No folder at '/nowhere/at/all' for `--vicuna`"):
        run(published, tmp_path / "out2", vicuna="/nowhere/at/all")
    with pytest.raises(ValueError, match="`--vicuna` must be a folder"):
        run(published, tmp_path / "out2", vicuna=published / "vicuna" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="`--clip-bpe`"):
        run(published, tmp_path / "out2", clip_bpe="/nowhere/vocabulary.gz")


def test_a_language_model_folder_must_be_whole(published, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        folder = vicuna_folder(published, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"No {re.escape(name)} in"):
            run(published, tmp_path / "out", vicuna=folder)


def test_dtype_is_checked(published, tmp_path):
    with pytest.raises(ValueError, match="`dtype` must be one of float32, float16, bfloat16, got 'int8'"):
        run(published, tmp_path / "out", dtype="int8")


# Command and self-test


def command(published, output, *more):
    parser = argparse.ArgumentParser()
    add_convert_arguments(parser)
    return parser.parse_args(
        [
            *("--imagebind", str(published / "imagebind_huge.pth")),
            *("--vicuna", str(published / "vicuna")),
            *("--pandagpt", str(published / "pandagpt" / "pytorch_model.pt")),
            *("--anomalygpt", str(published / "anomalygpt" / "pytorch_model.pt")),
            *("--clip-bpe", str(published / "merges.txt")),
            *("--output", str(output)),
            *more,
        ]
    )


def test_the_command_converts_and_reports(published, tmp_path, capsys):
    assert run_convert(command(published, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert f"imagebind: 227 tensors from {published / 'imagebind_huge.pth'}" in printed
    assert f"parameters to {tmp_path / 'out'}" in printed


def test_the_command_shows_all_wrong_keys(published, tmp_path, capsys):
    def broken(tensors):
        return {key: value for key, value in tensors.items() if not re.search(r"(meta_net\.\d+|fc\.\d)\.bias", key)}

    args = command(published, tmp_path / "out")
    args.anomalygpt = changed(published / "anomalygpt" / "pytorch_model.pt", tmp_path / "a.pt", broken)
    with pytest.raises(ValueError, match="do not fit together"):
        run_convert(args)
    printed = capsys.readouterr().err
    assert "missing (10):" in printed
    assert "anomalygpt: prompt_learner.meta_net.6.bias" in printed


@pytest.mark.parametrize("lora", [(), ("--keep-lora",)])
def test_verify_tells_what_a_failing_stage_means(published, tmp_path, capsys, lora):
    assert run_convert(command(published, tmp_path / "out", "--dtype", "float32", "--verify", *lora)) == 1
    printed = capsys.readouterr().out
    assert "1 language model: FAILED: the language model itself answers badly" in printed
    assert "2 picture: FAILED" in printed
    assert "3 anomaly: FAILED" in printed


def test_verify_passes_when_sentences_are_likely_and_the_answer_is_yes_or_no(merged, monkeypatch):
    monkeypatch.setattr(conversion_selftest, "_surprise", lambda *_: 1.0)
    monkeypatch.setattr(conversion_selftest, "_answer", lambda *_: "No, there is no anomaly in the image.")
    stages = conversion_selftest.verify(merged)
    assert [stage.passed for stage in stages] == [True, True, True]
    assert "1 language model: passed" in str(stages[0])
