"""Training with transformers' `Trainer`: losses by sample, whole checkpoints, one line for everything that goes wrong.

Knows the trainer and what is trained; does not know how maps are computed or where pictures come from.
"""

import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub import upload_folder
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.utils import PushInProgress

from ..data.fingerprint import fingerprint
from .card import write_training_card
from .checkpoints import (
    DIGESTS_FILE,
    STATE_FILE,
    UNFINISHED,
    TrainingError,
    check_facts,
    damage_of,
    is_finished,
    last_whole_checkpoint,
    newest_checkpoint,
    whole_folder,
    write_facts,
)
from .collator import InspectionCollator
from .data import StreamedExamples
from .evaluation import (
    COLUMNS,
    METRICS,
    InspectionMetrics,
    count_targets,
    evaluation_outputs,
    mean_losses,
    sample_losses,
    total_loss,
    yes_no_ids,
)
from .tuning import FrozenInEvaluationMode, trainable_names


class EpochOfDataset(TrainerCallback):
    """Sets the epoch of the training data, where they have `set_epoch`, on every process: the trainer does on one."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the epoch's workers start; also in the middle of an epoch, after a resume."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))


class SamplePictures(TrainerCallback):
    """Shows a few measured pictures in TensorBoard: the picture, its map, its target, and the answer.

    It does nothing without TensorBoard, and where one process alone has not the whole model (FSDP, ZeRO).

    Args:
        trainer ([`AnomalyTrainer`]): Its evaluation data, model and processor are used.
        count (`int`, defaults to 4): Pictures, evenly spread over the evaluation data.
    """

    def __init__(self, trainer: Any, count: int = 4):
        self.trainer, self.count = trainer, count

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the pictures of this step, on the first process."""
        callbacks = self.trainer.callback_handler.callbacks
        writer = next((board.tb_writer for board in callbacks if isinstance(board, TensorBoardCallback)), None)
        data = self.trainer.eval_dataset
        divided = self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled
        if writer is None or divided or not state.is_world_process_zero or not len(data):
            return
        chosen = np.linspace(0, len(data) - 1, min(self.count, len(data))).round().astype(int)
        for index in chosen:
            picture, answer = self._look(data[int(index)])
            writer.add_image(f"pictures/{index}", picture, state.global_step, dataformats="HWC")
            writer.add_text(f"answers/{index}", answer, state.global_step)
        writer.flush()

    @torch.no_grad()
    def _look(self, sample: dict[str, Any]) -> tuple[np.ndarray, str]:
        trainer, processor = self.trainer, self.trainer.processing_class
        batch = trainer.data_collator([sample])
        labels, mask = batch.pop("labels"), batch.pop("mask_labels")[0]
        begin = int((labels[0] != -100).int().argmax())
        inputs = trainer._prepare_inputs(
            {name: value for name, value in batch.items() if name not in ("image_ids", "image_labels")}
        )
        for name in ("input_ids", "attention_mask"):
            inputs[name] = inputs[name][:, :begin]
        model = trainer.accelerator.unwrap_model(trainer.model).eval()
        words = model.generate(
            **inputs, max_new_tokens=32, do_sample=False, pad_token_id=processor.tokenizer.pad_token_id
        )
        outputs = model(**inputs)
        words = words[0, begin:] if words.shape[1] > begin else words[0]
        question = processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
        answer = f"{question} -> **{processor.strip_answer(words)}** (score {outputs.anomaly_map.max():.3f})"
        panels = [_as_bytes(values) for values in (sample["pixel_values"], outputs.anomaly_map[0], mask.clamp(min=0))]
        size = panels[0].shape[1::-1]
        panels = [Image.fromarray(panel).resize(size, Image.Resampling.NEAREST) for panel in panels]
        return np.concatenate([np.asarray(panel) for panel in panels], axis=1), answer


def _as_bytes(values: Any) -> np.ndarray:
    """A picture `(3, H, W)` of any range or a map `(H, W)` in [0, 1] as `(H, W, 3)`, `uint8`."""
    array = torch.as_tensor(values).float().cpu().numpy()
    if array.ndim == 2:
        return np.repeat((array.clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    low, high = array.min(), array.max()
    return ((array - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(1, 2, 0)


# Arguments of transformers that decide the numbers of a run; others only say how it is shown, saved or sped up.
_DECIDE = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "optim", "optim_args", "max_grad_norm", "num_train_epochs", "max_steps", "seed",
    "data_seed", "bf16", "fp16", "neftune_noise_alpha", "train_sampling_strategy", "dataloader_drop_last",
)  # fmt: skip
# What is never pushed: the lock and what is not finished (both hidden), checkpoints among results, pickled arguments.
_NOT_PUSHED = ("_*", ".*", f"{PREFIX_CHECKPOINT_DIR}-*", TRAINING_ARGS_NAME)
# What of a checkpoint is no part of the model; its card is PEFT's.
_OF_THE_RUN = ("*.pt", "*.pth", "*.bin", STATE_FILE, DIGESTS_FILE, "README.md")


class AnomalyTrainer(Trainer):
    """Trains AnomalyGPT.

    Every sample weighs the same: gradient accumulation, several processes and a last small batch give the loss of one
    large batch. What is frozen stays in evaluation mode. Checkpoints are whole or not there, and hold what is trained.

    Args:
        model (`peft.PeftModel` or [`AnomalyGPTForConditionalGeneration`]): As [`prepare_for_tuning`] returned it.
        args (`TrainingArguments`): Any; what must be so for this model is set.
        train_dataset, eval_dataset ([`TrainingExamples`] or any `Dataset`, *optional*): Samples for the collator;
            `set_epoch(epoch)` and `fingerprint` are used where there are any. [`StreamedExamples`] are split by
            process here.
        processing_class ([`AnomalyGPTProcessor`]): The processor; saved with the model.
        data_collator (`Callable`, *optional*): Default: [`InspectionCollator`] of the processor. With `image_ids` in
            its batches a failure names pictures.
        compute_metrics (`Callable`, *optional*): Default: [`InspectionMetrics`].
        recipe (`dict[str, Any]`, *optional*): Further settings that decide the run (mode, data mix); saved, and
            compared on resume.

    Raises:
        TrainingError: If an argument has no effect on this model, **or** the metric of the best checkpoint is unknown.

    Example:
    ```python
    model = prepare_for_tuning(model, TuningArguments("prompt"))
    trainer = AnomalyTrainer(model, TrainingArguments("out"), train_dataset=examples, processing_class=processor)
    trainer.train()
    trainer.save_model()
    ```
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list | None = None,
        recipe: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        args.remove_unused_columns = False  # a sample has no columns that a signature could name
        args.label_names = ["labels", "mask_labels"]
        if args.label_smoothing_factor:
            raise TrainingError(
                f"`label_smoothing_factor` must be 0, got {args.label_smoothing_factor}: losses are those of samples. "
                "Leave it out."
            )
        if args.neftune_noise_alpha and not model.get_input_embeddings().weight.requires_grad:
            raise TrainingError(
                "`neftune_noise_alpha` must be left out where the word embeddings are frozen, got "
                f"{args.neftune_noise_alpha}. Only --tuning full trains them."
            )
        if compute_metrics is None and eval_dataset is not None:
            args.batch_eval_metrics = True
            compute_metrics = InspectionMetrics(model.config.loss_weights)
            _check_best_metric(args)
        if isinstance(train_dataset, StreamedExamples):
            train_dataset.split_by_process(args.process_index, args.world_size)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator or InspectionCollator(processing_class, with_names=True),
            compute_metrics=compute_metrics,
            callbacks=[EpochOfDataset(train_dataset), *(callbacks or [])],
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True  # divided by the samples of the whole step, see `compute_loss`
        self.recipe = dict(recipe or {})
        self.frozen = FrozenInEvaluationMode(model)
        self.yes_no = yes_no_ids(processing_class)
        self._trained = set(trainable_names(model))
        self._frozen_weights = _glance(model)
        self._sums = torch.zeros(len(COLUMNS))
        self._staging: str | None = None
        self._facts: dict[str, dict[str, Any]] | None = None

    # Losses

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Samples with answers and samples with pixel targets in the whole step, on all processes."""
        if not batch_samples:
            return None
        self._forget_repeated(batch_samples[-1])
        counts = sum(count_targets(batch["labels"], batch.get("mask_labels")) for batch in batch_samples)
        counts = counts.to(device)
        return self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def _forget_repeated(self, batch: dict[str, Any]) -> None:
        """Takes the targets from samples that fill up an epoch's last step so that every process has a batch."""
        data, size = self.train_dataset, self.args.train_batch_size
        at_end = self.args.world_size > 1 and self.accelerator.gradient_state.end_of_dataloader
        if not at_end or isinstance(data, torch.utils.data.IterableDataset) or self.args.dataloader_drop_last:
            return
        remaining = len(data) % (size * self.args.world_size) or size * self.args.world_size
        repeated = slice(max(0, remaining - self.args.process_index * size), None)
        batch["labels"][repeated] = -100
        if batch.get("mask_labels") is not None:
            batch["mask_labels"][repeated] = -1

    def get_train_dataloader(self) -> Any:
        """As in transformers; streams, which divide themselves, are not divided by accelerate a second time."""
        if not isinstance(self.train_dataset, StreamedExamples):
            return super().get_train_dataloader()
        args = self.args
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The weighted losses of the batch's samples, divided by the samples of the whole step."""
        inputs = dict(inputs)
        image_ids = inputs.pop("image_ids", [])
        inputs.pop("image_labels", None)
        labels, mask_labels = inputs.pop("labels"), inputs.pop("mask_labels", None)
        if model.training:
            self.frozen.apply()
        outputs = model(**inputs, return_layer_maps=mask_labels is not None)
        losses = sample_losses(outputs.logits, labels, outputs.layer_maps, mask_labels)
        in_step = model.training and num_items_in_batch is not None
        counts = num_items_in_batch if in_step else count_targets(labels, mask_labels).to(labels.device)
        weights = self.model.config.loss_weights
        loss = total_loss(losses, weights, counts) * (self.args.world_size if in_step else 1)  # processes are averaged
        if model.training:
            self._check_finite(loss, image_ids)
            self._sums = self._sums.to(loss.device) + losses.detach().sum(0)
        outputs["sample_losses"] = losses
        return (loss, outputs) if return_outputs else loss

    def _check_finite(self, loss: torch.Tensor, image_ids: list) -> None:
        if math.isfinite(loss.item()):
            return
        last = newest_checkpoint(self.args.output_dir)
        kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
        names = ", ".join(str(name) for name in image_ids[:8]) or "unnamed"
        raise TrainingError(
            f"The loss must be finite, got {loss.item()} in step {self.state.global_step + 1} (pictures: {names}). "
            f"{kept}; try half of --learning_rate {self.args.learning_rate:g}, or look at these pictures."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the losses apart and the token accuracy, over all samples since the last line."""
        if "loss" in logs:
            sums = self._sums.to(self.args.device)
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            logs |= mean_losses(sums.tolist())
            self._sums = torch.zeros_like(self._sums)
        super().log(logs, start_time)

    # Evaluation

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple:
        """What [`InspectionMetrics`] needs of a batch: numbers of each sample and its map, no logits."""
        if not isinstance(self.compute_metrics, InspectionMetrics):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return None, *evaluation_outputs(outputs, inputs, self.yes_no)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in transformers; refuses a metric that the data cannot give, at best in the measurement before step 1."""
        metrics = super()._evaluate(*args, **kwargs)
        best = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if best and f"eval_{best}" not in metrics:
            given = [name for name in METRICS if f"eval_{name}" in metrics]
            raise TrainingError(
                f"`metric_for_best_model` must be one that these pictures give, {', '.join(given)}, got {best!r}. "
                "AUROC and balanced accuracy need good and anomalous pictures, that of pixels masks too."
            )
        return metrics

    # Checkpoints

    def facts(self) -> dict[str, dict[str, Any]]:
        """What decides the run: model, data and recipe; written into every checkpoint."""
        if self._facts is None:
            decide = {name: getattr(self.args, name, None) for name in _DECIDE}
            decide = {name: getattr(value, "value", value) for name, value in decide.items()}
            decide["samples per step"] = (
                self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            )
            config = self.model.config.to_dict()
            for key in ("transformers_version", "auto_map", "_name_or_path"):
                config.pop(key, None)
            self._facts = {
                "model": {
                    "configuration": fingerprint(config),
                    "trained weights": fingerprint(sorted(self._trained)),
                    "frozen weights": self._frozen_weights,
                },
                "data": {"fingerprint": getattr(self.train_dataset, "fingerprint", None)},
                "recipe": decide | self.recipe,
            }
        return self._facts

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; `True` takes the last whole checkpoint.

        A checkpoint of another run, or a damaged one, is refused; after one of a finished run no step is taken.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
        if not resume_from_checkpoint:
            return super().train(None, *args, **kwargs)
        damage = damage_of(resume_from_checkpoint)
        if damage:
            raise TrainingError(
                f"`resume_from_checkpoint` must be a whole checkpoint, got {resume_from_checkpoint}: {damage}. "
                "Name another folder checkpoint-N of --output_dir, or add --resume to take the newest whole one."
            )
        check_facts(resume_from_checkpoint, self.facts())
        if not is_finished(resume_from_checkpoint):
            return super().train(resume_from_checkpoint, *args, **kwargs)
        self._load_from_checkpoint(resume_from_checkpoint)
        self.state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, STATE_FILE))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()
        return TrainOutput(self.state.global_step, 0.0, {})

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._train_only_what_is_trained()

    def _load_best_model(self):
        super()._load_best_model()
        self._train_only_what_is_trained()

    def _train_only_what_is_trained(self) -> None:
        """PEFT makes everything that it loads trainable."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self._trained)

    def _get_output_dir(self, trial):
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        for name, parameter in self.model.named_parameters():
            if name in self._trained and not torch.isfinite(parameter).all():
                last = newest_checkpoint(self.args.output_dir)
                raise TrainingError(
                    f"Trained weights must be finite, got NaN or infinity in {name} at step {self.state.global_step}. "
                    f"The last good checkpoint is {last}; try half of --learning_rate."
                )
        output_dir = super()._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        final, staging = os.path.join(output_dir, name), os.path.join(output_dir, UNFINISHED, name)
        best = os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if not (self.state.best_global_step and (best == final or os.path.isdir(best))):
            best = self.state.best_model_checkpoint
        self._staging = os.path.dirname(staging)
        try:
            with whole_folder(final, staging, self.args.should_save, self.accelerator.wait_for_everyone):
                super()._save_checkpoint(model, trial)
                self.state.best_model_checkpoint = best
                if self.args.should_save:
                    self.state.save_to_json(os.path.join(staging, STATE_FILE))
        finally:
            self._staging = None
        if self.args.should_save and not self._is_pushing():  # the next time, then
            rotate_checkpoints(
                output_dir=output_dir, save_total_limit=self.args.save_total_limit, best_model_checkpoint=best
            )
        if self.args.push_to_hub:
            self._push_from_checkpoint(final)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in transformers, but the arguments that it pickles hold no token of the Hub."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves what is trained, processor, card and what decided the run; files already there are replaced whole."""
        output_dir = output_dir or self.args.output_dir
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            if self.args.should_save:
                data = getattr(self.train_dataset, "training_data", None)
                write_facts(output_dir, self.facts(), data() if data else None)
            return
        finished = os.path.join(output_dir, UNFINISHED, "finished")
        with whole_folder(finished, f"{finished}.partial", self.args.should_save, self.accelerator.wait_for_everyone):
            self.save_model(f"{finished}.partial", _internal_call=True)
        if self.args.should_save:
            (pathlib.Path(finished) / DIGESTS_FILE).unlink()
            for path in pathlib.Path(finished).iterdir():
                target = pathlib.Path(output_dir) / path.name
                if target.is_dir():  # a processor has a folder for its second tokenizer
                    shutil.rmtree(target)
                os.replace(path, target)
            for folder in (finished, os.path.dirname(finished)):
                os.rmdir(folder)
            write_training_card(output_dir, self)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save")

    # Pushing

    def _is_pushing(self) -> bool:
        push = getattr(self, "push_in_progress", None)
        return push is not None and not push.is_done()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Begins to push a whole checkpoint; nothing while one is being written, when transformers calls this."""
        strategy, busy = self.args.hub_strategy, self._is_pushing()
        if self._staging or not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        jobs = [self._upload(checkpoint_folder, message, _OF_THE_RUN, run_as_future=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else os.path.basename(checkpoint_folder)
            options = {"path_in_repo": name, "run_as_future": True}
            jobs.append(self._upload(checkpoint_folder, f"{message}, checkpoint", **options))
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if busy else []), *jobs])

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, with this project's card and without the files that only this machine needs."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        self._finish_current_push()
        given = {name: value for name, value in {"token": token, "revision": revision}.items() if value is not None}
        return self._upload(self.args.output_dir, commit_message, run_as_future=not blocking, **given)

    def _upload(self, folder: str, message: str | None, ignored: Sequence[str] = (), **options: Any) -> Any:
        where = {"repo_id": self.hub_model_id, "token": self.args.hub_token, "revision": self.args.hub_revision}
        options = {"commit_message": message, "ignore_patterns": [*_NOT_PUSHED, *ignored]} | where | options
        return upload_folder(folder_path=folder, **options)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes this project's card, also where transformers would write its own."""
        if self.is_world_process_zero():
            write_training_card(self.args.output_dir, self)


def _check_best_metric(args: TrainingArguments) -> None:
    """Refuses an unknown metric before the first step; the least loss is the best."""
    if args.metric_for_best_model is None:
        return
    name = args.metric_for_best_model.removeprefix("eval_")
    if name not in METRICS:
        raise TrainingError(
            f"`metric_for_best_model` must be one of {', '.join(METRICS)}, got {args.metric_for_best_model!r}."
        )
    if name.startswith("loss"):
        args.greater_is_better = False


def _glance(model: torch.nn.Module) -> str:
    """Names the frozen weights by a few numbers of each."""
    few = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            values = parameter.detach().flatten()
            few[name] = [list(parameter.shape), values[:: max(1, len(values) // 7)].tolist()]
    return fingerprint(few)
