"""Whatever does not fit is refused by name, before anything is written."""

import shutil

import pytest
import torch

from modeling_anomalygpt.conversion.checks import check_llama_config, check_rotary_frequencies, check_vocabulary
from tests.published_files import changed, run, vicuna_folder

VICUNA_V0 = {"vocab_size": 32001, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_attention_heads": 32}
LORA = "llama_model.base_model.model.model.layers.1.self_attn.o_proj"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.mark.parametrize(
    "files",
    [
        {
            "imagebind_huge.pth": ("modality_trunks.text.blocks.1.mlp.fc2.bias", "modality_heads.vision.0.bias"),
            "pandagpt/pytorch_model.pt": ("llama_proj.bias", f"{LORA}.lora_B.default.weight"),
            "anomalygpt/pytorch_model.pt": ("image_decoder.fc.2.weight", "image_decoder.fc.0.bias"),
            "vicuna/pytorch_model.bin": ("model.layers.0.mlp.up_proj.weight", NORM),
        },
        {"pandagpt/pytorch_model.pt": (f"{LORA}.lora_B.default.weight", "llama_proj.bias")},
    ],
    ids=["each file", "LoRA"],
)
def test_wrong_keys_are_named_and_nothing_is_written(published, tmp_path, files):
    paths = {}
    for file, (absent, enlarged) in files.items():

        def broken(tensors, absent=absent, enlarged=enlarged):
            tensors[f"zzz.{absent}"] = tensors.pop(absent)
            tensors[enlarged] = torch.cat([tensors[enlarged], tensors[enlarged][-1:]])

        part = file.split("/")[0].split("_")[0]
        paths[part] = changed(published / file, tmp_path / file, broken)
    if "vicuna" in paths:
        paths["vicuna"] = paths["vicuna"].parent
        for name in ("config.json", "tokenizer.model"):
            shutil.copy(published / "vicuna" / name, paths["vicuna"])
    count = len(files)
    wrong = f"{count} missing .*; {count} unexpected .*; {count} misshapen .*Nothing was written"
    with pytest.raises(ValueError, match=wrong) as error:
        run(published, tmp_path / "out", **paths)
    first_line, report = str(error.value).split("\n", 1)
    for absent, enlarged in files.values():
        assert all(key in report for key in (absent, enlarged, f"zzz.{absent}"))
        assert count > 1 or all(key in first_line for key in (absent, enlarged, f"zzz.{absent}"))
    assert not (tmp_path / "out").exists()


def test_swapped_files_are_recognised(published, tmp_path):
    panda, anomaly = (published / name / "pytorch_model.pt" for name in ("pandagpt", "anomalygpt"))
    torch.save({"state": torch.ones(1)}, tmp_path / "other.pt")
    for given, message in (
        (
            {"pandagpt": anomaly, "anomalygpt": panda},
            "`--pandagpt` must be a PandaGPT delta.*is an AnomalyGPT delta.*`--anomalygpt`",
        ),
        (
            {"imagebind": published / "vicuna" / "pytorch_model.bin"},
            "`--imagebind` must be an ImageBind checkpoint.*is a LLaMA language model",
        ),
        ({"anomalygpt": tmp_path / "other.pt"}, "`--anomalygpt` must be an AnomalyGPT delta.*with the keys state"),
    ):
        with pytest.raises(ValueError, match=message):
            run(published, tmp_path / "out", **given)


# Language models


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_theta": 500000.0}, "rotary base 500000.0 instead of 10000"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rotary base 500000.0 instead of 10000"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"scaled rotary positions \('linear'\)"),
        ({"num_key_value_heads": 8}, "8 key-value heads instead of 32"),
        ({"model_type": "mistral"}, "model_type 'mistral' instead of 'llama'"),
        (
            {"vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
            "vocabulary 32000 instead of 32001.*rms_norm_eps 1e-05 instead of 1e-06.*context 4096 instead of 2048",
        ),
    ],
)
def test_other_language_models_are_refused_by_all_that_differs(values, message):
    check_llama_config(VICUNA_V0, "here")
    with pytest.raises(ValueError, match=f"must be Vicuna version 0, got 'here' with .*{message}"):
        check_llama_config(VICUNA_V0 | values, "here")


def test_vocabularies_that_do_not_belong_together_are_refused():
    for pieces, rows in ((32000, 32001), (512, 512), (512, 513)):
        check_vocabulary(pieces, rows)
    for pieces, rows in ((32000, 32000), (32000, 32002), (512, 511), (512, 514)):
        with pytest.raises(ValueError, match=f"for a tokenizer of {pieces} pieces, got {rows}"):
            check_vocabulary(pieces, rows)


def test_stored_rotary_frequencies_are_checked(published, tmp_path):
    frequencies = 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16)
    check_rotary_frequencies(frequencies.half(), "inv_freq")
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    bad = vicuna_folder(published, tmp_path / "bad", None, lambda tensors: tensors.update({key: frequencies / 4}))
    with pytest.raises(ValueError, match="inv_freq` must be the rotary frequencies of base 10000"):
        run(published, tmp_path / "out", vicuna=bad)


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


def rows(count, width=64, scale=1.0):
    """A change of a language model: fewer rows and columns of its embedding, smaller values."""

    def change(tensors):
        small = {key: scale * value for key, value in tensors.items()}
        return small | {EMBEDDING: small[EMBEDDING][:count, :width]}

    return change


@pytest.mark.parametrize(
    ("config", "base", "delta", "message"),
    [
        ({"rms_norm_eps": 1e-5}, rows(512), None, "folder' with rms_norm_eps 1e-05"),
        (None, rows(512, scale=0.01), None, "this is a Vicuna delta. Pass it as `--vicuna-delta`"),
        (
            {"rms_norm_eps": 1e-5},
            rows(511),
            rows(512, scale=0.01),
            "`--llama` must be the first LLaMA, got .*folder' with rms_norm_eps 1e-05",
        ),
        (None, rows(511), rows(511, scale=0.01), "must have 512 vocabulary rows, one more than `--llama`, got 511"),
        (None, rows(511), rows(512, width=48, scale=0.01), "must have the width of `--llama`, 64, got 48"),
        (None, rows(511), rows(512), "this is a complete model"),
    ],
)
def test_other_models_and_deltas_that_do_not_fit_are_refused(published, tmp_path, config, base, delta, message):
    folder = vicuna_folder(published, tmp_path / "folder", config, base)
    arguments = {"vicuna": folder}
    if delta is not None:
        other = vicuna_folder(published, tmp_path / "delta", None, delta)
        arguments = {"vicuna": None, "llama": folder, "vicuna_delta": other}
    with pytest.raises(ValueError, match=message):
        run(published, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


# Deltas and towers


def replaced(pattern, value=None):
    """A change of a file: tensors whose key holds `pattern` get this value, or go."""

    def change(tensors):
        kept = {key: tensor for key, tensor in tensors.items() if value is not None or pattern not in key}
        return {key: value if pattern in key else tensor for key, tensor in kept.items()}

    return change


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "pandagpt",
            replaced("llama_proj.weight", torch.zeros(96, 40)),
            "`--pandagpt` must be trained for .* width 64 .*got a delta for width 96",
        ),
        (
            "anomalygpt",
            replaced("prompt_learner.base_prompts", torch.zeros(9, 32)),
            "`--anomalygpt` must be trained for .* width 64 .*got a delta for width 32",
        ),
        (
            "pandagpt",
            replaced(".lora_A.", torch.zeros(4, 96)),
            r"8 misshapen(.|\n)*lora_A.default.weight is \(4, 96\), axis 1 must be 64",
        ),
        ("pandagpt", replaced("llama_proj.bias", torch.full((64,), torch.nan)), r"finite numbers.*'llama_proj\.bias'"),
        ("imagebind", replaced("vision.blocks.7."), "must have a depth of four equal parts, got 7 blocks"),
        (
            "anomalygpt",
            replaced("prompt_learner.meta_net.6.weight"),
            r"`anomalygpt` must hold the key 'prompt_learner\.meta_net\.6\.weight'",
        ),
    ],
)
def test_deltas_and_towers_that_do_not_fit_are_refused_and_nothing_is_left(published, tmp_path, part, change, message):
    file = published / ("imagebind_huge.pth" if part == "imagebind" else f"{part}/pytorch_model.pt")
    path = changed(file, tmp_path / "changed.pt", change)
    with pytest.raises(ValueError, match=message):
        run(published, tmp_path / "out", **{part: path})
    assert list(tmp_path.iterdir()) == [path]


def test_arguments_must_fit_the_files(published, tmp_path):
    for arguments, message in (
        ({"num_attention_heads": 32}, "must divide the text tower's width 48, got 32"),
        ({"out_indices": [1, 2]}, r"one image_decoder layer for each of the read-out blocks \[1, 2\], got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            run(published, tmp_path / "out", **arguments)
