"""Numbers measured during training, against the plain functions of the metrics."""

import re
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, TrainingArguments
from transformers.integrations import TensorBoardCallback

from modeling_anomalygpt.evaluation.metrics import auroc
from modeling_anomalygpt.training.card import write_training_card
from modeling_anomalygpt.training.evaluation import InspectionMetrics, yes_no_ids
from modeling_anomalygpt.training.trainer import AnomalyTrainer, SamplePictures
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from tests.tiny import tiny_pair
from tests.training.squares import Squares, trainer

pytest.importorskip("peft")


def batch(seed, size=6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, size)
    masks = np.zeros((size, 8, 8))
    masks[truth == 1, 2:5, 3:6] = 1
    maps = (0.4 * masks + rng.random((size, 8, 8)) * 0.6).astype(np.float32)
    losses = rng.random((size, 7)).astype(np.float32)
    losses[:, 3:5] = 1
    log_odds = np.where(rng.random(size) < 0.7, 2.0 * truth - 1, 1 - 2.0 * truth).astype(np.float32)
    return losses, maps, log_odds, masks, truth


def test_metrics_over_batches_are_those_of_everything_at_once():
    metrics, batches = InspectionMetrics({"lm": 1.0, "focal": 2.0, "dice": 0.5}), [batch(seed) for seed in range(4)]
    for number, (losses, maps, log_odds, masks, truth) in enumerate(batches):
        prediction = EvalPrediction(
            tuple(torch.tensor(one) for one in (losses, maps, log_odds)),
            tuple(torch.tensor(one) for one in (masks, truth)),
        )
        found = metrics(prediction, compute_result=number == 3)
        assert bool(found) == (number == 3)
    losses, maps, log_odds, masks, truth = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert found["loss_lm"] == pytest.approx(losses[:, 0].mean(), rel=1e-5)
    assert found["loss"] == pytest.approx((losses[:, :3] @ [1, 2, 0.5]).mean(), rel=1e-5)
    assert found["image_auroc"] == pytest.approx(auroc(truth, maps.max((1, 2))))
    assert found["pixel_auroc"] == pytest.approx(auroc(masks.ravel().astype(int), maps.ravel()), abs=1e-4)
    right = (log_odds > 0) == (truth == 1)
    expected = (right[truth == 1].mean() + right[truth == 0].mean()) / 2
    assert found["yes_no_balanced_accuracy"] == pytest.approx(expected)


def test_where_only_one_class_is_known_nothing_is_said_about_ranks():
    losses, maps, log_odds, masks, truth = batch(0)
    prediction = EvalPrediction((losses, maps, log_odds), (np.zeros_like(masks), np.zeros_like(truth)))
    assert {"image_auroc", "pixel_auroc", "yes_no_balanced_accuracy"}.isdisjoint(InspectionMetrics()(prediction))


def test_the_card_tells_what_was_measured_of_the_weights_that_are_kept(tmp_path):
    model, processor = tiny_pair()
    model = prepare_for_tuning(model, TuningArguments("prompt", num_virtual_tokens=4))
    args = TrainingArguments(
        str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=4, per_device_eval_batch_size=4,
        learning_rate=5e-3, eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="image_auroc", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    run = AnomalyTrainer(
        model, args, train_dataset=Squares(processor), eval_dataset=Squares(processor, 4), processing_class=processor
    )
    run.train()
    measured = {entry["step"]: entry for entry in run.state.log_history if "eval_loss_lm" in entry}
    best = max(measured, key=lambda step: (measured[step]["eval_image_auroc"], -step))
    assert best < 3, "the last step is not the best one"
    run.save_model(str(tmp_path / "saved"))
    write_training_card(tmp_path / "saved", run)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert re.search(rf"measured loss_lm \(step {best}\).*{measured[best]['eval_loss_lm']:.4f}", card)
    assert "(step 3)" not in card


def test_the_trainer_measures_keeps_the_best_checkpoint_and_shows_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    model, processor = tiny_pair()
    model = prepare_for_tuning(model, TuningArguments("prompt", num_virtual_tokens=4))
    args = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=5e-3,
        eval_strategy="steps", eval_steps=1, save_steps=1, save_total_limit=1, load_best_model_at_end=True,
        metric_for_best_model="loss_lm", greater_is_better=False, report_to=["tensorboard"], use_cpu=True,
        disable_tqdm=True, logging_steps=1, train_sampling_strategy="sequential",
    )  # fmt: skip
    held_back = Squares(processor, 7, seed=5)
    run = AnomalyTrainer(
        model, args, train_dataset=Squares(processor), eval_dataset=held_back, processing_class=processor
    )
    run.add_callback(SamplePictures(run, count=2))
    run.train()
    measured = [entry for entry in run.state.log_history if "eval_loss_lm" in entry]
    assert len(measured) == 4
    assert {"eval_image_auroc", "eval_pixel_auroc", "eval_token_accuracy", "eval_loss_focal"} <= set(measured[0])
    best = min(measured, key=lambda entry: entry["eval_loss_lm"])
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best['step']}")
    assert (tmp_path / f"checkpoint-{best['step']}").is_dir()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.glob("runs/*"))), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["pictures/0", "pictures/6"]
    assert len(events.Images("pictures/0")) == 4
    assert "eval/loss_lm" in events.Tags()["scalars"]


def test_a_map_of_another_size_than_the_picture_is_shown_whole(tmp_path):
    run = trainer(tmp_path, pair=tiny_pair(map_size=20))
    run.eval_dataset, shown = Squares(run.processing_class, 2, map_size=20), []
    board = object.__new__(TensorBoardCallback)  # without the package, of which it would make its writer
    board.tb_writer = mock.Mock(add_image=lambda name, picture, *_, **__: shown.append(picture))
    run.callback_handler.callbacks.append(board)
    SamplePictures(run).on_evaluate(run.args, run.state, run.control)
    assert [picture.shape for picture in shown] == [(28, 84, 3)] * 2
    rows, columns = np.nonzero(shown[1][:, 56:, 0])  # of the target, 8 to 16 of 20
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (11, 22, 11, 22)


def test_a_processor_without_words_for_yes_and_no_gives_none():
    assert yes_no_ids(None) == []
    _, processor = tiny_pair()
    assert all(shared >= 0 and yes and no for shared, yes, no in yes_no_ids(processor))
