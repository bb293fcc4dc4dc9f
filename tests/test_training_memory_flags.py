"""Flags that save memory: checkpointed activations give the same losses, half precision and 4 bits train and load."""

import pytest
import torch
from transformers import TrainingArguments

from modeling_anomalygpt.checkpoints import load_checkpoint
from modeling_anomalygpt.training.arguments import ModelArguments
from modeling_anomalygpt.training.checkpoints import TrainingError
from modeling_anomalygpt.training.model import load_for_training
from modeling_anomalygpt.training.trainer import AnomalyTrainer
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from tests.test_training import trainer
from tests.tiny import CallCounter, tiny_pair
from tests.training_samples import Squares

pytest.importorskip("peft")


@pytest.fixture
def base(tmp_path):
    model, processor = tiny_pair()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("tuning", ["prompt", "lora"])
def test_checkpointed_activations_are_computed_twice_and_give_the_same_losses(tmp_path, tuning):
    plain = trainer(tmp_path / "a", tuning, max_steps=3, save_strategy="no")
    saving = trainer(tmp_path / "b", tuning, max_steps=3, save_strategy="no", gradient_checkpointing=True)
    calls = {}
    for name, run in (("plain", plain), ("saving", saving)):
        first = run.model.get_base_model().model.language_model.layers[1].input_layernorm
        with CallCounter(first) as counter:
            run.train()
        calls[name] = counter.calls
    assert calls == {"plain": 3, "saving": 6}
    for one, other in zip(plain.state.log_history, saving.state.log_history, strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def run_with(base, folder, tuning="lora", **settings):
    model, processor = load_for_training(ModelArguments(base, **settings))
    model = prepare_for_tuning(model, TuningArguments(tuning, num_virtual_tokens=4))
    args = TrainingArguments(
        str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=5e-3, logging_steps=1, use_cpu=True,
        disable_tqdm=True, report_to=[], bf16=settings.get("dtype") == "bfloat16", save_strategy="no",
        train_sampling_strategy="sequential",
    )  # fmt: skip
    run = AnomalyTrainer(model, args, train_dataset=Squares(processor), processing_class=processor)
    run.train()
    run.save_model()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    return run


def test_a_frozen_part_in_half_precision_trains_float32_weights(base, tmp_path):
    run = run_with(base, tmp_path / "out", "prompt", dtype="bfloat16")
    kinds = {
        parameter.requires_grad: parameter.dtype for parameter in run.model.parameters() if parameter.numel() > 40
    }
    assert kinds[True] == torch.float32
    assert run.model.get_base_model().model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    loaded, _ = load_checkpoint(tmp_path / "out", device="cpu")
    assert loaded.config.num_virtual_tokens == 4


def test_a_language_model_in_4_bits_trains_with_lora(base, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    run = run_with(base, tmp_path / "out", load_in_4bit=True)
    layer = run.model.get_base_model().model.language_model.layers[0].mlp.up_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    loaded, _ = load_checkpoint(tmp_path / "out", device="cpu")
    assert any("lora_" in name for name, _ in loaded.named_parameters())


def test_4_bits_without_bitsandbytes_are_refused(base, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match="`load_in_4bit` needs bitsandbytes"):
        load_for_training(ModelArguments(base, load_in_4bit=True))


def test_an_unknown_number_format_is_refused():
    with pytest.raises(ValueError, match="`dtype` must be float32 or bfloat16, got 'int8'"):
        ModelArguments(dtype="int8")
