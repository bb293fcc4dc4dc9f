"""`anomalygpt evaluate`: a data set, methods, numbers of references, seeds; a table of results comes out."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .options import count, format_table, tile_side

EPILOG = """examples:
  anomalygpt evaluate --dataset anomaly_folder --data-dir photos --k-shot 1 4 --output results.csv
  anomalygpt evaluate --dataset mvtec_ad --data-dir /data/mvtec_ad --category bottle screw --limit 40 --output try.csv
  anomalygpt evaluate --protocol paper --model converted --dataset mvtec_ad --data-dir /data/mvtec_ad \\
      --k-shot 0 1 2 4 --output paper.csv
  torchrun --nproc_per_node 2 -m modeling_anomalygpt.cli evaluate --dataset visa --data-dir /data/visa --output v.csv

Protocols:
  ours   whole pictures in their own pixels; references drawn from train/good by seed; the score is calibrated on the
         references alone; the verdict is one of three.
  paper  what the published scripts do: middle square at the model's size, references number 4 * seed on (seed 3 for
         mvtec_ad, 14 for visa), names looked for in the question, maximum of the map, "Yes"/"No" in the answer.

The table has one row a method, category, number of references and seed, with every metric and what made it. Run the
same command again after an interruption: rows that are there are not measured again."""


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options.

    Args:
        parser (`argparse.ArgumentParser`): Of the subcommand.
    """
    data = parser.add_argument_group("what is measured on")
    data.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="mvtec_ad, visa, mvtec_loco, anomaly_folder (own pictures, train/good, test/<kind>, ground_truth), "
        "rendered_parts; NAME=DIR?option=value as for `anomalygpt train` is understood as well",
    )
    data.add_argument("--data-dir", nargs="+", metavar="DIR", help="folder of the data set, or several")
    data.add_argument("--category", nargs="+", metavar="NAME", help="only these (default: all)")
    data.add_argument(
        "--limit", type=int, metavar="N", help="at most N test pictures a category, half of them anomalous"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--protocol", choices=("ours", "paper"), default="ours", help="default: ours; see below")
    how.add_argument(
        "--k-shot", nargs="+", type=_shots, default=[1, 4], metavar="K", help="numbers of references: 0 1 2 4 8 all"
    )
    how.add_argument("--seeds", nargs="+", type=int, metavar="S", help="default: 0 1 2 (paper: its own round)")
    how.add_argument(
        "--references-from",
        choices=("train", "test"),
        default="train",
        help="split of the references (default: train); those from test are not measured on",
    )
    how.add_argument(
        "--methods",
        nargs="+",
        default=["anomalygpt"],
        metavar="NAME",
        help="anomalygpt (default), patchcore (all good pictures, coreset), patchcore_few, spade, padim, "
        "pixel_difference, winclip (needs a text tower)",
    )
    how.add_argument(
        "--backbone",
        metavar="DIR_OR_ID",
        help="vision model of transformers for patchcore to padim (default: the checkpoint's own)",
    )
    how.add_argument("--backbone-layers", nargs="+", type=int, metavar="N", help="its hidden states that are compared")
    how.add_argument(
        "--backbone-size", type=tile_side, metavar="PIXELS", help="side of its pictures (default: its own)"
    )
    how.add_argument("--no-answers", action="store_true", help="generate no answers: faster, no accuracy by text")
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or Hub id (default: the embedded one)")
    model.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    model.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: auto"
    )
    model.add_argument("--batch-size", type=count, default=8, metavar="N", help="default: 8")
    model.add_argument(
        "--force",
        action="store_true",
        help="measure a checkpoint that was trained on the test pictures; its rows say so",
    )
    parser.add_argument(
        "--output", required=True, metavar="CSV", help="table of results; gone on with where it exists"
    )


def run_evaluate(args: argparse.Namespace) -> int:
    """Measures and prints the summary.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_evaluate_arguments`].

    Returns:
        `int`: 0.

    Raises:
        ValueError, OSError, RuntimeError: One line each.
    """
    if not os.environ.get("ANOMALYGPT_DEBUG"):
        import warnings

        warnings.simplefilter("ignore")
    from .training_data import parse_dataset

    named = parse_dataset(args.dataset)
    from ..evaluation.tables import EvaluationRows

    rows = EvaluationRows(args.output)
    import datasets
    from accelerate import PartialState
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    import torch

    state = PartialState(cpu=not torch.accelerator.is_available() or args.device == "cpu")
    from ..evaluation.evaluate import EvaluationPlan, evaluate
    from ..evaluation.protocols import Protocol

    inspector = _inspector(args, state)
    size = inspector.processor.image_processor.size
    protocol = Protocol(args.protocol, named.name, (size["height"], size["width"]))
    seeds = protocol.usual_seeds if args.seeds is None else args.seeds
    EvaluationPlan(protocol, args.k_shot, seeds, args.references_from, args.limit)  # refuses before data are read
    detectors = _detectors(args, inspector, protocol)
    with state.main_process_first():
        splits = load_splits(named.name, args.data_dir or [named.folder], args.category, named.options)
        test = _split(splits, named.split or "test")
        needs_train = args.references_from == "train" and (
            any(shot != 0 for shot in args.k_shot) or "patchcore" in args.methods
        )
        train = _split(splits, "train") if needs_train else None
    facts = _facts(args, inspector, named.name, test)
    plan = EvaluationPlan(protocol, args.k_shot, seeds, args.references_from, args.limit, facts)
    found = evaluate(plan, detectors, test, train, rows)
    if state.is_main_process:
        print("\n".join(summary_table(found)))
        print(f"\n{len(found)} rows, {len(rows.rows)} in {args.output}")
    return 0


def summary_table(rows: list[dict[str, str]]) -> list[str]:
    r"""
    The means as lines for the terminal.

    Args:
        rows (`list[dict[str, str]]`): Of [`EvaluationRows`].

    Returns:
        `list[str]`: Percent; behind the mean the spread over seeds, then, in brackets, that over categories.
    """
    from ..evaluation.tables import summarize

    columns = {
        "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_0.3": "AUPRO .3",
        "accuracy_paper": "Yes/No text", "balanced_accuracy": "balanced acc.", "balanced_accuracy_decided": "decided",
        "balanced_accuracy_forced": "forced", "oracle_balanced_accuracy": "oracle", "false_alarm_rate": "false alarms",
        "miss_rate": "misses", "uncertain_rate": "uncertain", "positions_exact": "places", "count_exact": "counts",
    }  # fmt: skip
    lines = []
    for one in summarize(rows):
        first = [one["method"], one["backbone"], one["protocol"], one["k_shot"]]
        lines.append([*first, f"{one['categories']} x {one['seeds']}", *(_percent(one[name]) for name in columns)])
        if one["categories"] > 1:
            worst = [f"{100 * one[name].worst:.1f}" if one[name] else "-" for name in columns]
            lines.append([*first, "worst set", *worst])
    header = ["method", "backbone", "protocol", "k", "sets x seeds", *columns.values()]
    used = [column for column in range(len(header)) if any(line[column] not in ("", "-") for line in lines)]
    shown = [[line[column] for column in used] for line in lines]
    return [
        *format_table([header[column] for column in used], shown, width=1000, numbers=range(2, len(used))),
        "",
        "Percent: mean +- spread over seeds (over sets), below it the worst set's mean. Balanced accuracy counts "
        "`uncertain` as wrong; decided: without those; forced: by the sign of the evidence; oracle: best threshold.",
    ]


def _percent(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{100 * value.mean:.1f}"
    if value.seeds is not None:
        text += f" +-{100 * value.seeds:.1f}"
    return text + (f" ({100 * value.categories:.1f})" if value.categories is not None else "")


def _inspector(args: argparse.Namespace, state: Any) -> Any:
    from ..inspector import AnomalyInspector

    device = args.device or (str(state.device) if state.num_processes > 1 else None)
    dtype = None if args.dtype == "auto" else args.dtype
    return AnomalyInspector.from_pretrained(args.model, device=device, dtype=dtype)


def _detectors(args: argparse.Namespace, inspector: Any, protocol: Any) -> list[Any]:
    """The methods asked for, in the order of the table."""
    from ..evaluation.baselines import Backbone, make_baselines
    from ..evaluation.detectors import AnomalyGPTDetector

    model = inspector.model
    if args.backbone:
        backbone = Backbone.load(args.backbone, args.backbone_size, args.backbone_layers, model.device)
    else:
        layers = args.backbone_layers or model.config.out_indices
        backbone = Backbone("own", model.model.vision_tower, inspector.processor.image_processor, layers)
    methods = list(dict.fromkeys(args.methods))
    found = [AnomalyGPTDetector(inspector, protocol.published, not args.no_answers, args.batch_size)]
    others = [method for method in methods if method != "anomalygpt"]
    made = make_baselines(others, backbone, inspector, args.batch_size)
    return (found if "anomalygpt" in methods else []) + made


def load_splits(
    name: str,
    folders: Sequence[str | None],
    categories: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    r"""
    A data set from one folder or several.

    Args:
        name (`str`):
            As `load_anomaly_dataset` knows it.
        folders (`list[str]`):
            Where it lies; `None` for a data set that is made.
        categories (`list[str]`, *optional*):
            Only these.
        options (`dict`, *optional*):
            Of the data set's builder.

    Returns:
        `dict[str, datasets.Dataset]`: Split to its rows, those of the folders one after another.

    Raises:
        EvaluationError: If a folder is missing, a category lies in two folders **or** in none.
    """
    import datasets

    from datasets_scripts import load_anomaly_dataset

    from ..evaluation.evaluate import EvaluationError

    for folder in folders:
        if folder is not None and not os.path.isdir(folder):
            raise EvaluationError(f"`--data-dir` must be a folder that exists, got {folder!r}. Check the path.")
    # A category is in one of several folders, so these are read whole.
    choices = [{"category": one} for one in categories or ()] if len(folders) == 1 else []
    joined: dict[str, list[Any]] = {}
    known: set[str] = set()
    for folder in folders:
        loaded = [load_anomaly_dataset(name, folder, **(options or {}), **choice) for choice in choices or [{}]]
        parts = [(split, rows) for splits in loaded for split, rows in splits.items()]
        found = {category for _, rows in parts for category in rows.unique("category")}
        if found & known:
            raise EvaluationError(f"`--data-dir` must hold {min(found & known)!r} in one folder only, got it in two.")
        known |= found
        for split, rows in parts:
            joined.setdefault(split, []).append(rows)
    unknown = set(categories or ()) - known
    if unknown and len(folders) > 1:
        raise EvaluationError(f"`--category` must be among {', '.join(sorted(known))}, got {min(unknown)!r}.")
    splits = {split: datasets.concatenate_datasets(parts) for split, parts in joined.items()}
    if not unknown and set(categories or known) == known:
        return splits
    return {
        split: rows.select([row for row, category in enumerate(rows["category"]) if category in categories])
        for split, rows in splits.items()
    }


def _split(splits: dict[str, Any], split: str) -> Any:
    """One split."""
    from ..evaluation.evaluate import EvaluationError

    if split in splits:
        return splits[split]
    advice = (
        "Put good pictures into train/good, or use --references-from test."
        if split == "train"
        else "Put labelled pictures into test/<kind>."
    )
    raise EvaluationError(f"`--dataset` must have a {split} split, got {', '.join(splits) or 'none'}. {advice}")


def _facts(args: argparse.Namespace, inspector: Any, dataset: str, test: Any) -> dict[str, str]:
    """Columns that are the same in every row; refuses a checkpoint that saw the pictures."""
    from ..checkpoints import EMBEDDED_CHECKPOINT
    from ..data.fingerprint import split_fingerprint
    from ..data.sources import SourceRows
    from ..evaluation.seen_data import SeenPicturesError, seen_pictures, training_record
    from ..evaluation.tables import result_facts

    source = args.model or str(EMBEDDED_CHECKPOINT)
    record = training_record(source)
    categories = SourceRows(test, "test").categories
    fingerprints = {split_fingerprint(test)}
    for name in set(categories):
        own = [index for index, category in enumerate(categories) if category == name]
        fingerprints.add(split_fingerprint(test.select(own)))
    seen = None if record is None else seen_pictures(record, dataset, fingerprints)
    if seen is not None and not args.force:
        raise SeenPicturesError(
            f"`--model` must not have seen the test pictures, got {source!r}, which was trained on {seen}. Take "
            "another checkpoint or another data set; --force measures it and says so in every row."
        )
    if seen is not None:
        print(f"Measured although it was trained on {seen}.", file=sys.stderr)
    facts = result_facts(inspector.model, source)
    return facts | {"saw_test_pictures": "not recorded" if record is None else f"yes: {seen}" if seen else "no"}


def _shots(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, or all, got {text!r}")
    return int(text)


__all__ = ["EPILOG", "add_evaluate_arguments", "run_evaluate", "summary_table"]
