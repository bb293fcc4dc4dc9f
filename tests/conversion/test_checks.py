"""Whatever does not fit is refused by name, before anything is written."""

import shutil

import pytest
import torch

from modeling_anomalygpt.conversion.checks import check_llama_config, check_rotary_frequencies, check_vocabulary
from tests.published_files import changed, run, vicuna_folder, write_published_files

VICUNA_V0 = {"vocab_size": 32001, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_attention_heads": 32}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published files; tests must not change them."""
    return write_published_files(tmp_path_factory.mktemp("published"))


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
