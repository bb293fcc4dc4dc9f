"""`anomalygpt train`: a recipe, options, data; a small adapter folder comes out."""

import argparse
import dataclasses
import logging
import os
import re
import sys
import time
import warnings
from typing import Any

EPILOG = """examples:
  anomalygpt train --recipe own_parts --good photos/good --category bolt --output_dir bolt
  anomalygpt train --recipe own_parts --good photos/good --output_dir bolt --resume
  anomalygpt train --tuning lora --dataset mvtec_ad=/data/mvtec_ad --conversations chat.json --output_dir mvtec
  anomalygpt train --dataset 'rendered_parts?families=screw,gear&num_train=16' --num_train_epochs 2
  torchrun --nproc_per_node 2 -m modeling_anomalygpt.cli train --recipe paper_mvtec ...

The folder --output_dir then works like any checkpoint: anomalygpt inspect photo.png --model bolt --references good/"""

# Other packages' remarks that are true of every run of a mode and ask for nothing.
_KNOWN = (
    "Position ids are not supported for parameter efficient tuning",
    "'pin_memory' argument is set as true but no accelerator is found",
    "`use_cache=True` is incompatible with gradient checkpointing",
    "There were missing keys in the checkpoint model loaded: ['lm_head.weight']",  # tied to the embeddings
)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--recipe` and the fields of all dataclasses; what is not given stays out of the namespace.

    Args:
        parser (`argparse.ArgumentParser`): Of the subcommand.
    """
    parser.add_argument("--recipe", metavar="NAME_OR_FILE", help="settings from a YAML or JSON file; options override")
    fields = _fields_parser()
    for action in fields._actions:
        action.default = argparse.SUPPRESS
    parser._add_container_actions(fields)  # what `parents=[fields]` does


def run_train(args: argparse.Namespace) -> int:
    """Trains, saves and says how the result is used.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_train_arguments`].

    Returns:
        `int`: 0.

    Raises:
        ValueError, OSError, RuntimeError: One line each.
    """
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    if not os.environ.get("ANOMALYGPT_DEBUG"):
        _leave_out_the_known()
        disable_progress_bar()
    from ..training.checkpoints import is_finished, newest_checkpoint
    from ..training.trainer import AnomalyTrainer, SamplePictures
    from ..training.tuning import describe_tuning, load_for_training, prepare_for_tuning
    from .training_data import evaluation_sets, training_examples

    given = vars(args)
    model_args, tuning_args, data_args, training_args = parse_settings(given.pop("recipe", None), given)
    checkpoint = _start(training_args)
    with training_args.main_process_first(desc="data sets"):
        model, processor = load_for_training(model_args)
        data_seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
        examples = training_examples(data_args, processor, model.config.map_size, data_seed)
        measured = evaluation_sets(data_args, processor, model.config.map_size, data_seed)
    set_seed(training_args.seed)
    model = prepare_for_tuning(model, tuning_args)
    say = print if training_args.process_index == 0 else lambda *_: None
    trained = describe_tuning(model, tuning_args.tuning)
    say(trained)
    say(examples.summary())
    finished = checkpoint is not None and is_finished(checkpoint)
    if checkpoint and not finished:
        say(f"going on from {checkpoint}")
    recipe = dataclasses.asdict(tuning_args) | {
        name: getattr(model_args, name) for name in ("loss_weight_lm", "loss_weight_focal", "loss_weight_dice")
    }
    trainer = AnomalyTrainer(
        model,
        training_args,
        train_dataset=examples,
        eval_dataset=measured,
        processing_class=processor,
        callbacks=[_lines(say)],
        recipe=recipe,
    )
    trainer.remove_callback(_printer())
    if measured is not None:
        trainer.add_callback(SamplePictures(trainer))
    trainer.train(resume_from_checkpoint=checkpoint)
    if finished and os.path.isfile(os.path.join(training_args.output_dir, "README.md")):  # written last
        say(f"finished: {checkpoint} holds the last of {trainer.state.max_steps} steps; nothing was changed")
        return 0
    last_measured = max((entry["step"] for entry in trainer.state.log_history if "eval_loss_lm" in entry), default=-1)
    if measured is not None and last_measured < trainer.state.global_step:
        trainer.evaluate()
    trainer.save_model()
    last = newest_checkpoint(training_args.output_dir)
    say(f"saved {training_args.output_dir}" + (f" (last checkpoint: {last})" if last else ""))
    say(f"try it: anomalygpt inspect PICTURE --model {training_args.output_dir} --references GOOD")
    return 0


def parse_settings(recipe: str | None, given: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    r"""
    Puts defaults, recipe and command line together.

    Args:
        recipe (`str`, *optional*):
            File or name.
        given (`dict[str, Any]`):
            What the command line sets.

    Returns:
        `tuple`: [`ModelArguments`], [`TuningArguments`], [`DataArguments`], [`AnomalyTrainingArguments`]

    Raises:
        TrainingError: If a field of the recipe is unknown.
        ValueError: If a value is refused.
    """
    from ..training.arguments import check_recipe, read_recipe

    classes = _classes()
    settings = dict(read_recipe(recipe)) if recipe else {}
    check_recipe(settings, classes)
    kinds = {action.dest: action for action in _fields_parser()._actions}
    for name, value in settings.items():
        settings[name] = _converted(name, value, kinds[name])
    settings = _usual(settings | given)
    found = []
    for cls in classes:
        names = {one.name for one in dataclasses.fields(cls) if one.init}
        found.append(cls(**{name: value for name, value in settings.items() if name in names}))
    return tuple(found)


def _usual(settings: dict[str, Any]) -> dict[str, Any]:
    """What nobody wants to say each time: measure where there is something to measure on, show it where one can."""
    from transformers.integrations import is_tensorboard_available

    usual: dict[str, Any] = {"disable_tqdm": True}
    if settings.get("eval_dataset"):
        usual |= {"eval_strategy": "steps", "eval_on_start": True, "eval_steps": settings.get("save_steps", 100)}
        if is_tensorboard_available():
            usual["report_to"] = ["tensorboard"]
        if settings.get("metric_for_best_model"):
            usual["load_best_model_at_end"] = True
    elif settings.get("metric_for_best_model"):
        raise ValueError("`metric_for_best_model` needs labelled pictures, got none. Add --eval_dataset NAME=DIR.")
    return usual | settings


def _classes() -> tuple[type, ...]:
    from ..training.arguments import AnomalyTrainingArguments, DataArguments, ModelArguments
    from ..training.tuning import TuningArguments

    return (ModelArguments, TuningArguments, DataArguments, AnomalyTrainingArguments)


def _fields_parser() -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(_classes(), add_help=False, conflict_handler="resolve")
    for action in parser._actions:
        if action.dest in ("good", "dataset", "eval_dataset"):
            action.__class__ = argparse._ExtendAction  # may be given several times
    return parser


def _converted(name: str, value: Any, action: argparse.Action) -> Any:
    """A recipe's value as the command line would read it: YAML takes 1e-4 for a word."""
    if not isinstance(value, str) or action.type is None:
        return value
    try:
        return action.type(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"The recipe's `{name}` cannot be {value!r}: {error}.") from error


def _leave_out_the_known() -> None:
    """Warnings are one line each, on one process, without those that are known to mean nothing here."""
    warnings.filterwarnings("default", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for text in _KNOWN:
        warnings.filterwarnings("ignore", message=f".*{re.escape(text)}")
    warnings.showwarning = _one_line
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_is_news)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"anomalygpt train: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _KNOWN)


def _start(training_args: Any) -> str | None:
    """The checkpoint to go on from; refuses a folder that holds another run."""
    from ..training.checkpoints import TrainingError, last_whole_checkpoint, newest_checkpoint

    last = newest_checkpoint(training_args.output_dir)
    if training_args.resume_from_checkpoint:
        return training_args.resume_from_checkpoint
    if training_args.resume:
        return last_whole_checkpoint(training_args.output_dir)
    if last:
        raise TrainingError(
            f"`--output_dir` must be a new folder, got {training_args.output_dir!r}, which holds "
            f"{os.path.basename(last)}. Add --resume to go on from it, or choose another folder."
        )
    for name in ("adapter_config.json", "config.json"):
        if os.path.isfile(os.path.join(training_args.output_dir, name)):
            raise TrainingError(
                f"`--output_dir` must be a new folder, got {training_args.output_dir!r}, which holds a model. "
                "Choose another folder."
            )
    return None


def _printer() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _lines(say: Any) -> Any:
    from transformers import TrainerCallback

    class Lines(TrainerCallback):
        """One line of losses, readable in a terminal and in a log file."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.begin, self.first = time.monotonic(), state.global_step

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                done = max(state.global_step - self.first, 1)
                left = (time.monotonic() - self.begin) / done * (state.max_steps - state.global_step)
                parts = ", ".join(
                    f"{name.removeprefix('loss_')} {logs[name]:.3f}"
                    for name in ("loss_lm", "loss_focal", "loss_dice")
                    if name in logs
                )
                words = f", words right {logs['token_accuracy']:.1%}" if "token_accuracy" in logs else ""
                say(
                    f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.3f} ({parts}){words}, "
                    f"{left / 60:.0f} min left"
                )
            elif any(name.startswith("eval_") for name in logs):
                shown = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
                names = [name for name in shown if not name.endswith(("runtime", "per_second"))]
                say("measured: " + ", ".join(f"{name} {shown[name]:.3f}" for name in names))
            sys.stdout.flush()

    return Lines()


__all__ = ["EPILOG", "add_train_arguments", "parse_settings", "run_train"]
