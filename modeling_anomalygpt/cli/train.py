"""`anomalygpt train`: a recipe, options, data; a small adapter folder comes out."""

import argparse
import dataclasses
import functools
import logging
import os
import pathlib
import re
import sys
import time
import warnings
from typing import Any

from . import OneLineParser
from .options import one_line, only_writer

# Other packages' remarks that are true of every run of a mode and ask for nothing.
_KNOWN = (
    "Position ids are not supported for parameter efficient tuning",
    "'pin_memory' argument is set as true but no accelerator is found",
    "`use_cache=True` is incompatible with gradient checkpointing",
    "There were missing keys in the checkpoint model loaded: ['lm_head.weight']",  # tied to the embeddings
)
_REPEATABLE = ("good", "dataset", "eval_dataset")
_NOT_GIVEN = object()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--recipe` and `--help-all`; all other words are read by transformers' parser, which is slow to import."""
    parser.usage = "anomalygpt train [--recipe NAME_OR_FILE] [--good DIR ... | --dataset NAME=DIR ...] [option ...]"
    folder = pathlib.Path(__file__).parents[1] / "training" / "recipes"
    recipes = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    settings = f"settings from a YAML or JSON file, or one of {recipes}; options override"
    parser.add_argument("--recipe", metavar="NAME_OR_FILE", help=settings)
    parser.add_argument("--help-all", action="store_true", help="show every option with its default, and exit")
    parser.set_defaults(further_words=[])


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt train`; returns the exit code."""
    parser = _fields_parser()
    if args.help_all:
        parser.print_help()
        return 0
    given = _read_words(parser, args.further_words)
    from transformers.utils.logging import disable_progress_bar

    if not os.environ.get("ANOMALYGPT_DEBUG"):
        _leave_out_the_known()
        disable_progress_bar()
    settings = parse_settings(args.recipe, given)
    if settings[-1].process_index:
        return _train(*settings)
    os.makedirs(settings[-1].output_dir, exist_ok=True)
    with only_writer(settings[-1].output_dir, ".train.lock"):
        return _train(*settings)


def _train(model_args: Any, tuning_args: Any, data_args: Any, training_args: Any) -> int:
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from ..training.checkpoints import is_finished, newest_checkpoint
    from ..training.trainer import AnomalyTrainer, SamplePictures
    from ..training.tuning import describe_tuning, load_for_training, prepare_for_tuning
    from .training_data import evaluation_sets, training_examples

    checkpoint = _start(training_args)
    with training_args.main_process_first(desc="data sets"):
        model, processor = load_for_training(model_args)
        data_seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
        examples = training_examples(data_args, processor, model.config, data_seed)
        measured = evaluation_sets(data_args, processor, model.config, data_seed)
    set_seed(training_args.seed)
    model = prepare_for_tuning(model, tuning_args)
    say = print if training_args.process_index == 0 else lambda *_: None
    say(describe_tuning(model, tuning_args.tuning))
    say(examples.summary())
    finished = checkpoint is not None and is_finished(checkpoint)
    if checkpoint and not finished:
        say(f"going on from {checkpoint}")
    decide = ("loss_weight_lm", "loss_weight_focal", "loss_weight_dice", "mixture", "short_side")
    settings = vars(model_args) | vars(data_args)
    trainer = AnomalyTrainer(
        model,
        training_args,
        train_dataset=examples,
        eval_dataset=measured,
        processing_class=processor,
        callbacks=[_lines(say)],
        recipe=dataclasses.asdict(tuning_args) | {name: settings[name] for name in decide},
    )
    trainer.remove_callback(PrinterCallback)
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
    """Defaults, then a recipe (file or name), then what the command line sets, as the four dataclasses.

    Raises:
        TrainingError: If a field of the recipe is unknown.
        ValueError: If a value is refused.
    """
    from ..training.arguments import check_recipe, read_recipe

    classes = _classes()
    settings = dict(read_recipe(recipe)) if recipe else {}
    check_recipe(settings, classes)
    parser = _fields_parser()
    for name, value in settings.items():
        if isinstance(value, str):  # as the command line would read it: YAML takes 1e-4 for a word
            try:
                settings[name] = _read_words(parser, [f"--{name}={value}"])[name]
            except ValueError as error:
                raise ValueError(f"The recipe's `{name}` cannot be {value!r}: {error}. Correct the recipe.") from error
    settings = _with_usual(settings | given)
    found = []
    for cls in classes:
        names = {field.name for field in dataclasses.fields(cls) if field.init}
        found.append(cls(**{name: value for name, value in settings.items() if name in names}))
    return tuple(found)


def _with_usual(settings: dict[str, Any]) -> dict[str, Any]:
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
        raise ValueError("`metric_for_best_model` needs labelled pictures, got none. Add --eval-dataset NAME=DIR.")
    return usual | settings


def _classes() -> tuple[type, ...]:
    from ..training.arguments import AnomalyTrainingArguments, DataArguments, ModelArguments
    from ..training.tuning import TuningArguments

    return (ModelArguments, TuningArguments, DataArguments, AnomalyTrainingArguments)


def _fields_parser() -> OneLineParser:
    """Reads the fields of all dataclasses."""
    from transformers import HfArgumentParser

    class Parser(OneLineParser, HfArgumentParser):
        """Transformers' options with errors in one line."""

    options = {"prog": "anomalygpt train", "usage": "anomalygpt train [option ...]", "add_help": False}
    parser = Parser(dataclass_types=_classes(), conflict_handler="resolve", exit_on_error=False, **options)
    for name in _REPEATABLE:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*spellings, dest=name, action="extend", nargs="+", default=argparse.SUPPRESS)
    parser.add_argument("--output_dir", "--output-dir", "--output", metavar="DIR", help="checkpoints and result")
    return parser


def _read_words(parser: OneLineParser, words: list[str]) -> dict[str, Any]:
    """What the words set, without defaults; `ValueError` where a value is refused."""
    names = {field.name for cls in _classes() for field in dataclasses.fields(cls) if field.init} - set(_REPEATABLE)
    try:
        found, unknown = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(names, _NOT_GIVEN)))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        parser.usage = None  # it is searched for what may have been meant
        parser.refuse(unknown)
    return {name: value for name, value in vars(found).items() if value is not _NOT_GIVEN}


def _leave_out_the_known() -> None:
    """Warnings are one line each, on one process, without those that are known to mean nothing here."""
    warnings.filterwarnings("default", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for text in _KNOWN:
        warnings.filterwarnings("ignore", message=f".*{re.escape(text)}")
    warnings.showwarning = functools.partial(one_line, command="anomalygpt train")
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(lambda record: not any(text in record.getMessage() for text in _KNOWN))


def _start(training_args: Any) -> str | None:
    """The checkpoint to go on from; refuses a folder that holds another run."""
    from ..training.checkpoints import TrainingError, last_whole_checkpoint, newest_checkpoint

    folder = training_args.output_dir
    last = newest_checkpoint(folder)
    if training_args.resume_from_checkpoint:
        return training_args.resume_from_checkpoint
    if training_args.resume:
        return last_whole_checkpoint(folder)
    hint = "which holds a model. Choose another folder."
    if last:
        hint = f"which holds {os.path.basename(last)}. Add --resume to go on from it, or choose another folder."
    if last or any(os.path.isfile(f"{folder}/{name}") for name in ("adapter_config.json", "config.json")):
        raise TrainingError(f"`--output` must be a new folder, got {folder!r}, {hint}")
    return None


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
                names = [name for name in ("loss_lm", "loss_focal", "loss_dice") if name in logs]
                parts = ", ".join(f"{name.removeprefix('loss_')} {logs[name]:.3f}" for name in names)
                words = f", words right {logs['token_accuracy']:.1%}" if "token_accuracy" in logs else ""
                where = f"step {state.global_step}/{state.max_steps}"
                say(f"{where}: loss {logs['loss']:.3f} ({parts}){words}, {left / 60:.0f} min left")
            measured = {name: value for name, value in logs.items() if name.startswith("eval_")}
            names = [name for name in measured if not name.endswith(("runtime", "per_second"))]
            if names:
                say("measured: " + ", ".join(f"{name.removeprefix('eval_')} {measured[name]:.3f}" for name in names))
            sys.stdout.flush()

    return Lines()
