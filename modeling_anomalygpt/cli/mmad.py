"""`anomalygpt mmad`: the MMAD benchmark's questions; accuracies of its seven subtasks come out."""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from .options import count, format_table

EPILOG = """examples:
  anomalygpt mmad --data-dir /data/MMAD --output answers.jsonl
  anomalygpt mmad --data-dir /data/MMAD --json /data/MMAD/mmad.json --limit 200 --model converted --output try.jsonl

The folder holds mmad.json and the pictures (https://huggingface.co/datasets/jiang-cc/MMAD). Every question is asked
for itself; an option counts by its likelihood:
  --score text    mean log-probability of the option's words; for detection Yes against No after the question that the
                  model was trained with
  --score letter  log-probability of the option's letter after the question and the list of options
Run the same command again after an interruption: pictures that are answered in --output are not asked again."""


def add_mmad_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options.

    Args:
        parser (`argparse.ArgumentParser`): Of the subcommand.
    """
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="folder of the benchmark")
    parser.add_argument("--json", metavar="FILE", help="questions (default: mmad.json in --data-dir)")
    parser.add_argument("--output", required=True, metavar="JSONL", help="answers; gone on with where it exists")
    parser.add_argument("--k-shot", type=int, default=1, metavar="K", help="templates as references (default: 1)")
    parser.add_argument("--templates", choices=("random", "similar"), default="random", help="default: random")
    parser.add_argument("--score", choices=("text", "letter"), default="text", help="default: text; see below")
    parser.add_argument("--limit", type=count, metavar="N", help="only N pictures, spread evenly")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or Hub id (default: the embedded one)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: auto"
    )
    parser.add_argument("--force", action="store_true", help="also with a checkpoint that was trained on the pictures")


def run_mmad(args: argparse.Namespace) -> int:
    """Answers and prints the table.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_mmad_arguments`].

    Returns:
        `int`: 0.

    Raises:
        ValueError, OSError, RuntimeError: One line each.
    """
    if not os.environ.get("ANOMALYGPT_DEBUG"):
        import warnings

        warnings.simplefilter("ignore")
    from tqdm.auto import tqdm
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from ..evaluation.mmad import MMADAnswerer, MMADError, answered, finished_answers, read_questions

    if not os.path.isdir(args.data_dir):
        raise MMADError(f"`--data-dir` must be a folder that exists, got {args.data_dir!r}. Check the path.")
    if not pathlib.Path(args.output).parent.is_dir():
        raise MMADError(f"`--output` must be in a folder that exists, got {args.output!r}. Make the folder.")
    file = args.json or os.path.join(args.data_dir, "mmad.json")
    questions = read_questions(file, args.templates, args.limit)
    _refuse_seen(args, questions)
    from ..checkpoints import EMBEDDED_CHECKPOINT
    from ..evaluation.tables import result_facts
    from ..inspector import AnomalyInspector

    dtype = None if args.dtype == "auto" else args.dtype
    inspector = AnomalyInspector.from_pretrained(args.model, device=args.device, dtype=dtype)
    facts = result_facts(inspector.model, args.model or str(EMBEDDED_CHECKPOINT))
    facts |= {"k_shot": args.k_shot, "templates": args.templates, "score": args.score}
    finished = finished_answers(args.output)
    _refuse_other_facts(args.output, facts)
    answerer = MMADAnswerer(inspector, args.data_dir, args.k_shot, args.score)
    rows = []
    with open(args.output, "a", encoding="utf-8") as output:
        if not output.tell():
            output.write(json.dumps({"facts": facts}) + "\n")
        bar = tqdm(answered(answerer, questions, finished), desc="asking", total=len(questions), unit="picture")
        for image, answers, is_new in bar:
            rows += answers
            if is_new:
                output.write(json.dumps({"image": image, "answers": answers}, ensure_ascii=False) + "\n")
                output.flush()
    print("\n".join(mmad_table(rows)))
    return 0


def mmad_table(rows: list[dict[str, Any]]) -> list[str]:
    """The accuracies as lines for the terminal, in percent.

    Args:
        rows (`list[dict]`): Answers.

    Returns:
        `list[str]`: A data set a line.
    """
    from ..evaluation.mmad import SUBTASKS, summarize_answers

    columns = (*SUBTASKS, "average", "overkill", "miss")
    lines = [
        [name, *("-" if row[column] is None else f"{100 * row[column]:.1f}" for column in columns)]
        + [str(row["questions"])]
        for name, row in summarize_answers(rows).items()
    ]
    header = ["set", *(column.replace("Defect ", "").replace("Anomaly ", "") for column in columns), "questions"]
    return format_table(header, lines, width=1000, numbers=range(1, len(header)))


def _refuse_seen(args: argparse.Namespace, questions: Any) -> None:
    from ..checkpoints import EMBEDDED_CHECKPOINT
    from ..evaluation.mmad import SOURCES
    from ..evaluation.seen_data import SeenPicturesError, seen_pictures, training_record

    record = training_record(args.model or str(EMBEDDED_CHECKPOINT))
    for name in sorted({SOURCES.get(image.split("/")[0], "") for image in questions}):
        seen = seen_pictures(record or [], name, ())
        if seen is not None and not args.force:
            raise SeenPicturesError(
                f"`--model` must not have seen the pictures, got {args.model!r}, which was trained on {seen}. Take "
                "another checkpoint, or --force."
            )
        if seen is not None:
            print(f"Asked although it was trained on {seen}.", file=sys.stderr)


def _refuse_other_facts(path: str, facts: dict[str, Any]) -> None:
    """Answers of another checkpoint or another way of asking are not gone on with."""
    from ..evaluation.mmad import MMADError

    if not os.path.exists(path) or not os.path.getsize(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            before = json.loads(file.readline())["facts"]
        except (json.JSONDecodeError, KeyError, TypeError):
            before = {}
    for name in ("checkpoint_hash", "k_shot", "templates", "score"):
        if before.get(name) != facts[name]:
            raise MMADError(
                f"`--output` must be new or hold answers of the same run, got {path!r} with another {name}. Choose "
                "another file."
            )


__all__ = ["EPILOG", "add_mmad_arguments", "mmad_table", "run_mmad"]
