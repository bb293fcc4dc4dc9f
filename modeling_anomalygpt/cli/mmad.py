"""`anomalygpt mmad`: the MMAD benchmark's questions; accuracies of its seven subtasks come out."""

import argparse
import os
from typing import Any

from .evaluate import checkpoint_name, refuse_seen
from .options import add_model_options, check_folder_of, check_model, count, load_model
from .tables import format_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt mmad`."""
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="folder of the benchmark")
    parser.add_argument("--json", metavar="FILE", help="questions (default: mmad.json in --data-dir)")
    answers = "answers; those that are there are not asked again"
    parser.add_argument("--output", required=True, metavar="JSONL", help=answers)
    parser.add_argument("--k-shot", type=int, default=1, metavar="K", help="templates as references (default: 1)")
    parser.add_argument("--templates", choices=("random", "similar"), default="random", help="default: random")
    parser.add_argument("--score", choices=("text", "letter"), default="text", help="default: text; see below")
    parser.add_argument("--limit", type=count, metavar="N", help="only N pictures, spread evenly")
    model = add_model_options(parser)
    model.add_argument("--force", action="store_true", help="also with a checkpoint that was trained on the pictures")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt mmad`; returns the exit code."""
    check_model(args.model)
    from tqdm.auto import tqdm

    from ..evaluation.mmad import SOURCES, MMADAnswerer, MMADError, answered, finished_answers, read_questions
    from ..evaluation.tables import result_facts
    from ..files import append_json_line

    if not os.path.isdir(args.data_dir):
        raise MMADError(f"`--data-dir` must be a folder that exists, got {args.data_dir!r}. Check the path.")
    check_folder_of("--output", args.output)
    file = args.json or os.path.join(args.data_dir, "mmad.json")
    questions = read_questions(file, args.templates, args.limit)
    refuse_seen(args, sorted({SOURCES.get(image.split("/")[0], "") for image in questions}), set())
    inspector = load_model(args)
    facts = result_facts(inspector.model, checkpoint_name(args))
    facts |= {"k_shot": args.k_shot, "templates": args.templates, "score": args.score}
    finished = finished_answers(args.output)
    if not _holds_answers(args.output, facts):
        append_json_line(args.output, {"facts": facts})
    answerer = MMADAnswerer(inspector, args.data_dir, args.k_shot, args.score)
    rows = []
    bar = tqdm(answered(answerer, questions, finished), desc="asking", total=len(questions), unit="picture")
    for image, answers, is_new in bar:
        rows += answers
        if is_new:
            append_json_line(args.output, {"image": image, "answers": answers})
    print("\n".join(mmad_table(rows)))
    return 0


def mmad_table(rows: list[dict[str, Any]]) -> list[str]:
    """The accuracies of answers as lines for the terminal, in percent, a data set a line."""
    from ..evaluation.mmad import SUBTASKS, summarize_answers

    columns = (*SUBTASKS, "average", "overkill", "miss")
    lines = [
        [name, *("-" if row[column] is None else f"{100 * row[column]:.1f}" for column in columns)]
        + [str(row["questions"])]
        for name, row in summarize_answers(rows).items()
    ]
    header = ["set", *(column.replace("Defect ", "").replace("Anomaly ", "") for column in columns), "questions"]
    return format_table(header, lines, numbers=range(1, len(header)))


def _holds_answers(path: str, facts: dict[str, Any]) -> bool:
    """Whether the file has answers; those of another checkpoint or another way of asking are refused."""
    from ..evaluation.mmad import MMADError
    from ..files import json_line, read_json_lines, write_atomically

    if not os.path.exists(path) or not os.path.getsize(path):
        return False
    rows = read_json_lines(path)
    before = next((row["facts"] for row in rows[:1] if isinstance(row.get("facts"), dict)), {})
    for name in ("checkpoint_hash", "k_shot", "templates", "score"):
        if before.get(name) != facts[name]:
            raise MMADError(
                f"`--output` must be new or hold answers of the same run, got {path!r} with another {name}. Choose "
                "another file."
            )
    write_atomically(path, b"".join(map(json_line, rows)))  # without a last line that a kill has cut off
    return True
