"""The trainer: the same loss however a step is cut, what is trained, whole checkpoints, resuming, saving memory."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from modeling_anomalygpt.checkpoints import load_checkpoint
from modeling_anomalygpt.modeling_anomalygpt import dice_loss, focal_loss
from modeling_anomalygpt.training.arguments import ModelArguments
from modeling_anomalygpt.training.checkpoints import last_whole_checkpoint
from modeling_anomalygpt.training.evaluation import COLUMNS, count_targets, sample_losses, total_loss
from modeling_anomalygpt.training.trainer import AnomalyTrainer, TrainingError
from modeling_anomalygpt.training.tuning import FrozenInEvaluationMode, load_for_training, trainable_names
from tests.tiny import CallCounter, DtypeRecorder, tiny_pair
from tests.training.squares import Squares, streamed, trainer, weights

pytest.importorskip("peft")

# Losses


def test_sample_losses_are_those_of_each_sample_alone():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 11), torch.randint(0, 11, (3, 6))
    labels[0, :4] = labels[1, :2] = -100
    labels[2] = -100
    maps = torch.rand(3, 2, 1, 5, 5)
    maps = torch.cat([1 - maps, maps], dim=2)
    masks = torch.randint(0, 2, (3, 5, 5))
    masks[1] = -1
    losses = sample_losses(logits, labels, maps, masks)
    lm, focal, dice, answered, masked, correct, tokens = losses.unbind(1)
    for row in (0, 1):
        places = [place for place in range(1, 6) if labels[row, place] != -100]
        each = [-logits[row, place - 1].log_softmax(0)[labels[row, place]] for place in places]
        torch.testing.assert_close(lm[row], sum(each) / len(each))
        right = sum(int(logits[row, place - 1].argmax() == labels[row, place]) for place in places)
        assert (tokens[row], correct[row]) == (len(places), right)
    assert lm[2] == 0
    assert answered.tolist() == [1, 1, 0]
    for row in (0, 2):
        expected_focal = sum(focal_loss(maps[row : row + 1, layer], masks[row : row + 1])[0] for layer in (0, 1))
        expected_dice = sum(dice_loss(maps[row : row + 1, layer, 1], masks[row : row + 1])[0] for layer in (0, 1))
        torch.testing.assert_close(losses[row, 1:3], torch.stack([expected_focal, expected_dice]))
    assert focal[1] == dice[1] == 0
    assert masked.tolist() == [1, 0, 1]
    assert count_targets(labels, masks).tolist() == [2, 2]
    total = total_loss(losses, {"lm": 1.0, "focal": 2.0, "dice": 3.0}, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(total, lm.sum() / 2 + (2 * focal.sum() + 3 * dice.sum()) / 2)
    assert losses.shape == (3, len(COLUMNS))


def test_accumulated_steps_and_a_last_small_batch_give_the_gradients_of_one_large_batch(tmp_path):
    options = {"count": 10, "max_steps": 1, "save_strategy": "no", "optim": "sgd"}
    large = trainer(tmp_path, per_device_train_batch_size=10, **options)
    small = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, **options)
    before = weights(large.model)
    assert all(torch.equal(value, before[name]) for name, value in weights(small.model).items())
    large.train()
    small.train()
    first, second = large.state.log_history[0], small.state.log_history[0]
    for name in ("loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy"):
        assert math.isclose(first[name], second[name], rel_tol=1e-5), name
    after = weights(large.model)
    assert any((after[name] - before[name]).abs().max() > 0 for name in before)
    for name, value in weights(small.model).items():
        torch.testing.assert_close(value - before[name], after[name] - before[name], rtol=1e-3, atol=1e-7)


def test_nothing_of_a_step_is_in_float64_which_not_every_gpu_has(tmp_path):
    run = trainer(tmp_path, max_steps=2, save_strategy="no", per_device_eval_batch_size=4)
    with DtypeRecorder() as recorder:
        run.train()
        run.evaluate(run.train_dataset)
    assert torch.float32 in recorder.dtypes
    assert torch.float64 not in recorder.dtypes


# What is trained


@pytest.mark.parametrize("tuning", ["paper", "prompt", "lora", "full"])
def test_every_mode_lowers_the_loss_and_leaves_what_is_frozen(tmp_path, tuning):
    run = trainer(tmp_path, tuning, num_train_epochs=5, save_strategy="no", logging_steps=3, learning_rate=0.02)
    frozen = {name: value.clone() for name, value in run.model.state_dict().items() if name not in weights(run.model)}
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < 0.97 * losses[0]
    state = run.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())


def test_frozen_parts_stay_in_evaluation_mode_and_the_data_know_the_epoch(tmp_path):
    run = trainer(tmp_path, "prompt", count=4, save_strategy="no")
    modes = {}

    def look(module, *_):
        modes.update({name: one.training for name, one in run.model.named_modules()})

    run.model.get_base_model().model.prompt_learner.register_forward_hook(look)
    run.train()
    assert not modes["base_model.model.language_model"]
    assert not modes["base_model.model.vision_tower"]
    assert modes["base_model.model.prompt_learner.modules_to_save.default"]
    trained = set(trainable_names(run.model))
    assert all(parameter.grad is None for name, parameter in run.model.named_parameters() if name not in trained)
    assert list(dict.fromkeys(run.train_dataset.epochs)) == [0, 1]


def test_statistics_of_batches_never_move_even_when_everything_is_trained():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    frozen = FrozenInEvaluationMode(model)
    model.train()
    frozen.apply()
    before = model[1].running_mean.clone()
    model(torch.randn(2, 3, 8, 8))
    assert torch.equal(model[1].running_mean, before)
    assert model[0].training


def test_a_stream_trains(tmp_path):
    run, seen = streamed(tmp_path)
    run.train()
    assert run.state.global_step == 4
    assert seen == {f"nut/{index}" for index in range(8)}
    assert all(math.isfinite(entry["loss"]) for entry in run.state.log_history if "loss" in entry)


def test_the_best_checkpoint_is_that_of_the_least_loss_or_the_highest_rate(tmp_path):
    run = trainer(tmp_path)
    settings = {"eval_dataset": Squares(run.processing_class, 2), "processing_class": run.processing_class}
    for name, greater in (("loss", False), ("eval_loss_dice", False), ("image_auroc", True)):
        args = dataclasses.replace(run.args, metric_for_best_model=name)
        assert AnomalyTrainer(run.model, args, **settings).args.greater_is_better is greater
    args.metric_for_best_model = "auroc"
    with pytest.raises(TrainingError, match="`metric_for_best_model` must be one of loss, .* got 'auroc'"):
        AnomalyTrainer(run.model, args, **settings)


def test_an_option_without_effect_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"`label_smoothing_factor` must be 0, got 0\.1"):
        trainer(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(TrainingError, match="`neftune_noise_alpha` must be left out where the word embeddings"):
        trainer(tmp_path, neftune_noise_alpha=5.0)
    assert trainer(tmp_path, "full", neftune_noise_alpha=5.0).args.neftune_noise_alpha == 5


@pytest.mark.parametrize("name", ["pixel_auroc", "eval_image_auroc"])
def test_a_metric_that_the_pictures_cannot_give_ends_the_run_before_the_first_step(tmp_path, name):
    run = trainer(tmp_path, metric_for_best_model=name, eval_on_start=True)
    good = torch.utils.data.Subset(Squares(run.processing_class), [0, 4, 6])
    run = AnomalyTrainer(
        run.model, run.args, train_dataset=run.train_dataset, eval_dataset=good, processing_class=run.processing_class
    )
    run.training_step = None
    given = "loss, loss_lm, loss_focal, loss_dice, token_accuracy"
    with pytest.raises(TrainingError, match=f"must be one that these pictures give, {given}, got"):
        run.train()


# Checkpoints


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with the checkpoints 2, 4 and 6: folder and trainer. What changes it, mends it."""
    run = trainer(tmp_path_factory.mktemp("run"))
    run.train()
    return pathlib.Path(run.args.output_dir), run


def the_same(run, other):
    expected = weights(other.model)
    return all(torch.equal(value, expected[name]) for name, value in weights(run.model).items())


def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_ends_bit_identical(tmp_path):
    whole, halted = (trainer(tmp_path, "lora", count=8, save_steps=1) for _ in range(2))
    whole.train()
    halted.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert the_same(halted, whole)
    last = [[entry for entry in run.state.log_history if entry.get("step") == 4][0] for run in (whole, halted)]
    assert last[0] == {**last[1], "grad_norm": last[0].get("grad_norm")}


def test_a_checkpoint_holds_what_is_trained_and_what_decides_the_run(tmp_path):
    run = trainer(tmp_path, "paper", save_total_limit=2, max_steps=3, save_steps=1)
    run.train()
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-3"]
    folder = tmp_path / "checkpoint-3"
    saved = load_file(folder / "adapter_model.safetensors")
    assert all(any(part in name for part in ("localizer", "prompt_learner")) for name in saved)
    facts = json.loads((folder / "training_run.json").read_text())
    assert facts["data"]["fingerprint"] == run.train_dataset.fingerprint
    assert facts["recipe"]["learning_rate"] == 5e-3
    assert json.loads((folder / "training_data.json").read_text())["datasets"][0]["name"] == "squares"
    assert not list(tmp_path.glob(".unfinished/*"))
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "processor_config.json"):
        assert (folder / file).is_file(), file


def other_pair():
    model, processor = tiny_pair()
    model.model.language_model.layers[0].mlp.up_proj.weight.data.mul_(1.01)
    return model, processor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-2}, r"`learning_rate` must be 0\.005, got 0\.01"),
        ({"seed": 3}, "the data's `fingerprint` must be"),
        ({"tuning": "lora"}, "the model's `trained weights` must be"),
        ({"recipe": {"lora_rank": 4}}, "`lora_rank` must be None, got 4"),
        ({"per_device_train_batch_size": 2}, "`samples per step` must be 4, got 2"),
        ({"pair": other_pair}, "the model's `frozen weights` must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(finished, changes, message):
    changes = {name: value() if callable(value) else value for name, value in changes.items()}
    with pytest.raises(TrainingError, match=message):
        trainer(finished[0], **changes).train(resume_from_checkpoint=True)


def test_a_folder_that_was_not_finished_is_never_taken(tmp_path):
    whole = tmp_path / "checkpoint-2" / "trainer_state.json"  # of an earlier version, which wrote no digests
    whole.parent.mkdir()
    whole.write_text("{}")
    (tmp_path / ".unfinished" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "checkpoint-5").mkdir()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    with pytest.raises(TrainingError, match="must be a whole checkpoint, got .*checkpoint-5: trainer_state.json is"):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def bits_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_takes_no_step_and_changes_no_file_when_it_is_resumed(finished):
    folder, run = finished
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (2, 4, 6)]
    before = bits_of(folder)
    for _ in range(2):
        again = trainer(folder, save_total_limit=1)
        again.training_step = None
        assert again.train(resume_from_checkpoint=True).global_step == 6
        assert the_same(again, run)
    assert bits_of(folder) == before


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "emptied": lambda content: b"",
    "deleted": None,
}
FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_run.json")


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_recognised_and_the_intact_one_beside_it_is_named(finished, file):
    folder, again = finished[0], trainer(finished[0])
    path = folder / "checkpoint-6" / file
    intact = path.read_bytes()
    for damage in DAMAGES.values():
        path.unlink() if damage is None else path.write_bytes(damage(intact))
        with pytest.warns(UserWarning, match=rf"checkpoint-6 is damaged \({file} is .*\): .*checkpoint-4 is used"):
            assert last_whole_checkpoint(folder) == str(folder / "checkpoint-4")
        with pytest.raises(TrainingError, match=rf"must be a whole checkpoint, got .*checkpoint-6: {file} is"):
            again.train(resume_from_checkpoint=str(folder / "checkpoint-6"))
        path.write_bytes(intact)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert last_whole_checkpoint(folder) == str(folder / "checkpoint-6")


def test_a_run_goes_on_from_the_intact_checkpoint_to_the_same_bits_and_mends_the_damaged_one(finished):
    folder, run = finished
    os.truncate(folder / "checkpoint-6" / "optimizer.pt", 1000)
    again = trainer(folder)
    with pytest.warns(UserWarning, match="checkpoint-6 is damaged"):
        again.train(resume_from_checkpoint=True)
    assert the_same(again, run)
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-6")


def test_where_every_checkpoint_is_damaged_nothing_is_begun(finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    os.truncate(tmp_path / "checkpoint-2" / "adapter_model.safetensors", 1000)
    with pytest.raises(TrainingError, match=r"Every checkpoint in .* is damaged \(checkpoint-2: adapter_model.safet"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = trainer(tmp_path, count=4, save_steps=1)
    save = torch.save

    def full(value, target, *args, **kwargs):
        if run.state.global_step >= 2 and "optimizer" in str(target):
            raise OSError(28, "No space left on device")
        return save(value, target, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left on device. The last checkpoint .*checkpoint-1 is whole"):
        run.train()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-1")
    assert not (tmp_path / ".unfinished" / "checkpoint-2").exists()
    monkeypatch.undo()
    again = trainer(tmp_path, count=4, save_steps=1)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pictures(tmp_path):
    class Broken(Squares):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if self.epoch == 1 and index == 5:
                sample["pixel_values"] = np.full_like(sample["pixel_values"], np.nan)
            return sample

    run = trainer(tmp_path, count=8)
    run.train_dataset.__class__ = Broken
    expected = r"The loss must be finite, got nan in step 4 \(pictures: square 4, square 5, .*checkpoint-2; try half"
    with pytest.raises(TrainingError, match=expected):
        run.train()


def test_a_processor_with_a_folder_of_its_own_is_saved_over_itself(tmp_path, monkeypatch):
    run = trainer(tmp_path, max_steps=1, save_strategy="no")
    save = run.processing_class.save_pretrained

    def save_with_a_second_tokenizer(folder, **options):
        save(folder, **options)
        run.processing_class.tokenizer.save_pretrained(os.path.join(folder, "class_tokenizer"))

    monkeypatch.setattr(run.processing_class, "save_pretrained", save_with_a_second_tokenizer)
    for _ in range(2):
        run.save_model()
    assert (tmp_path / "class_tokenizer" / "tokenizer.json").is_file()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = trainer(tmp_path, max_steps=1, save_strategy="no")
    run.train()
    name, parameter = next((n, p) for n, p in run.model.named_parameters() if p.requires_grad)
    parameter.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="Trained weights must be finite"):
        run._save_checkpoint(run.model, None)
    assert not os.path.exists(tmp_path / "checkpoint-1")


def test_the_saved_model_is_an_adapter_folder_without_the_token_that_loads_to_the_same_numbers(tmp_path):
    model, processor = tiny_pair()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    run = trainer(tmp_path / "out", max_steps=2, hub_token="hf_secret")
    run.model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    run.train()
    run.save_model()
    assert (tmp_path / "out" / "training_args.bin").is_file()
    assert not [path for path, content in bits_of(tmp_path).items() if b"hf_secret" in content]
    assert run.args.hub_token == "hf_secret"  # pushing needs it
    assert not (tmp_path / "out" / ".unfinished").exists()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "squares (split all, 12 pictures, labels synthetic)" in card
    run.save_model(_internal_call=True)  # as transformers calls it before it pushes
    run.create_model_card(model_name="other")
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == card
    loaded, _ = load_checkpoint(tmp_path / "out", device="cpu")
    batch = run.data_collator([run.train_dataset[i] for i in range(4)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        expected, got = run.model.eval()(**inputs), loaded(**inputs)
    assert torch.equal(got.logits, expected.logits[:, -inputs["input_ids"].shape[1] :])
    assert torch.equal(got.anomaly_map, expected.anomaly_map)


# Memory


@pytest.mark.parametrize("tuning", ["prompt", "lora"])
def test_checkpointed_activations_are_computed_twice_and_give_the_same_losses(tmp_path, tuning):
    losses, calls = [], []
    for saving in (False, True):
        run = trainer(tmp_path, tuning, max_steps=2, save_strategy="no", gradient_checkpointing=saving)
        layer = run.model.get_base_model().model.language_model.layers[1].input_layernorm
        with CallCounter(layer) as counter:
            run.train()
        calls.append(counter.calls)
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert calls == [2, 4]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def trained_from_a_folder(tmp_path, tuning, **settings):
    for part in tiny_pair():
        part.save_pretrained(tmp_path / "base")
    pair = load_for_training(ModelArguments(str(tmp_path / "base"), **settings))
    bf16 = settings.get("dtype") == "bfloat16"
    run = trainer(tmp_path / "out", tuning, pair=pair, max_steps=4, save_strategy="no", bf16=bf16)
    run.train()
    run.save_model()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    return run, load_checkpoint(tmp_path / "out", device="cpu")[0]


def test_a_frozen_part_in_half_precision_trains_float32_weights(tmp_path):
    run, loaded = trained_from_a_folder(tmp_path, "prompt", dtype="bfloat16")
    assert {value.dtype for value in weights(run.model).values()} == {torch.float32}
    assert run.model.get_base_model().model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert loaded.config.num_virtual_tokens == 4


def test_a_language_model_in_4_bits_trains_with_lora(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    run, loaded = trained_from_a_folder(tmp_path, "lora", load_in_4bit=True)
    layer = run.model.get_base_model().model.language_model.layers[0].mlp.up_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    assert any("lora_" in name for name, _ in loaded.named_parameters())


def test_4_bits_without_bitsandbytes_and_unknown_number_formats_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match="`load_in_4bit` needs bitsandbytes"):
        load_for_training(ModelArguments(load_in_4bit=True))
    with pytest.raises(ValueError, match="`dtype` must be float32 or bfloat16, got 'int8'"):
        ModelArguments(dtype="int8")
