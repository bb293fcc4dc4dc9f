"""`anomalygpt evaluate`: a data set, methods, numbers of references, seeds; a table of results comes out."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .options import add_model_options, be_quiet, check_model, count, load_model, tile_side, whole
from .tables import format_table

_COLUMNS = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_0.3": "AUPRO .3",
    "accuracy_paper": "Yes/No text", "balanced_accuracy": "balanced acc.", "balanced_accuracy_decided": "decided",
    "balanced_accuracy_forced": "forced", "oracle_balanced_accuracy": "oracle", "false_alarm_rate": "false alarms",
    "miss_rate": "misses", "uncertain_rate": "uncertain", "positions_exact": "places", "count_exact": "counts",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt evaluate`."""
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
    most = "at most N test pictures a category, half of them anomalous"
    data.add_argument("--limit", type=int, metavar="N", help=most)
    how = parser.add_argument_group("how")
    how.add_argument("--protocol", choices=("ours", "paper"), default="ours", help="default: ours; see below")
    shots = "numbers of references: 0 1 2 4 8 all (default: 1 4)"
    how.add_argument("--k-shot", nargs="+", type=_shots, default=[1, 4], metavar="K", help=shots)
    how.add_argument("--seeds", nargs="+", type=int, metavar="S", help="default: 0 1 2 (paper: its own round)")
    split = "split of the references (default: train); those from test are not measured on"
    how.add_argument("--references-from", choices=("train", "test"), default="train", help=split)
    how.add_argument(
        "--methods",
        nargs="+",
        default=["anomalygpt"],
        metavar="NAME",
        help="anomalygpt (default), anomalygpt_foreground (only what is told from mat or tray counts), "
        "anomalygpt_aligned (pictures are brought into the pose of the good ones), anomalygpt_presence (what all good "
        "pictures show must be there), patchcore (all good pictures, coreset), patchcore_few, spade, padim, "
        "pixel_difference, winclip (needs a text tower)",
    )
    backbone = "vision model of transformers for patchcore to padim (default: the checkpoint's own)"
    how.add_argument("--backbone", metavar="DIR_OR_ID", help=backbone)
    how.add_argument("--backbone-layers", nargs="+", type=int, metavar="N", help="its hidden states that are compared")
    how.add_argument("--backbone-size", type=tile_side, metavar="PIXELS", help="side of its pictures (default: own)")
    how.add_argument("--no-answers", action="store_true", help="generate no answers: faster, no accuracy by text")
    model = add_model_options(parser)
    model.add_argument("--batch-size", type=count, default=8, metavar="N", help="default: 8")
    seen = "measure a checkpoint that was trained on the test pictures; its rows say so"
    model.add_argument("--force", action="store_true", help=seen)
    table = "table of results; a table that is there is continued"
    parser.add_argument("--output", required=True, metavar="CSV", help=table)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt evaluate`; returns the exit code."""
    from .training_data import parse_dataset

    named = parse_dataset(args.dataset)
    be_quiet()
    check_model(args.model)
    import datasets
    import torch
    from accelerate import PartialState

    from ..evaluation.evaluate import EvaluationPlan, evaluate
    from ..evaluation.protocols import Protocol
    from ..evaluation.tables import EvaluationRows

    rows = EvaluationRows(args.output)
    datasets.disable_progress_bars()
    state = PartialState(cpu=not torch.accelerator.is_available() or args.device == "cpu")
    draft = Protocol(args.protocol, named.name, (1, 1))  # its canvas is the model's, which is loaded last
    seeds = draft.usual_seeds if args.seeds is None else args.seeds
    plan = (args.k_shot, seeds, args.references_from, args.limit)
    EvaluationPlan(draft, *plan)  # refuses before data are read
    if named.split == "train" and args.references_from == "train" and any(shot != 0 for shot in args.k_shot):
        raise ValueError(
            "`--references-from` must be test with split=train: good pictures are not compared with themselves."
        )
    if args.backbone_size and not args.backbone:
        raise ValueError("`--backbone-size` must come with --backbone; the checkpoint's own tower has its own size.")
    with state.main_process_first():
        splits = load_splits(named.name, args.data_dir or [named.folder], args.category, named.options)
        test = _split(splits, named.split or "test")
        drawn = any(shot != 0 for shot in args.k_shot) or "patchcore" in args.methods
        train = _split(splits, "train") if args.references_from == "train" and drawn else None
    _check_shots(draft, args.k_shot, seeds, train if args.references_from == "train" else test)
    inspector = load_model(args, **({"device": str(state.device)} if state.num_processes > 1 else {}))
    size = inspector.processor.image_processor.size
    protocol = Protocol(args.protocol, named.name, (size["height"], size["width"]))
    detectors = _detectors(args, inspector, protocol)
    measured = evaluate(
        EvaluationPlan(protocol, *plan, _facts(args, inspector, named.name, test)), detectors, test, train, rows
    )
    if state.is_main_process:
        print("\n".join(summary_table(measured)))
        print(f"\n{len(measured)} rows, {len(rows.rows)} in {args.output}")
    return 0


def summary_table(rows: list[dict[str, str]]) -> list[str]:
    """The means of [`EvaluationRows`] for the terminal: percent, behind them the spreads over seeds and (sets)."""
    from ..evaluation.tables import summarize

    lines = []
    for row in summarize(rows):
        first = [row["method"], row["backbone"], row["protocol"], row["k_shot"]]
        lines.append([*first, f"{row['categories']} x {row['seeds']}", *(_percent(row[name]) for name in _COLUMNS)])
        if row["categories"] > 1:
            worst = [f"{100 * row[name].worst:.1f}" if row[name] else "-" for name in _COLUMNS]
            lines.append([*first, "worst set", *worst])
    header = ["method", "backbone", "protocol", "k", "sets x seeds", *_COLUMNS.values()]
    used = [column for column in range(len(header)) if any(line[column] not in ("", "-") for line in lines)]
    shown = [[line[column] for column in used] for line in lines]
    return [
        *format_table([header[column] for column in used], shown, numbers=range(2, len(used))),
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


def load_splits(
    name: str,
    folders: Sequence[str | None],
    categories: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A data set from one folder or several.

    Args:
        name (`str`): As `load_anomaly_dataset` knows it.
        folders (`list[str]`): Where it lies; `None` for a data set that is made.
        categories (`list[str]`, *optional*): Only these.
        options (`dict`, *optional*): Of the data set's builder.

    Returns:
        `dict[str, datasets.Dataset]`: Split to its rows, those of the folders one after another.

    Raises:
        EvaluationError: If a folder is missing, a category lies in two folders **or** in none, **or** categories are
            chosen twice or have the same pictures.
    """
    import datasets

    from datasets_scripts import load_anomaly_dataset

    from ..evaluation.evaluate import EvaluationError

    for folder in folders:
        if folder is not None and not os.path.isdir(folder):
            raise EvaluationError(f"`--data-dir` must be a folder that exists, got {folder!r}. Check the path.")
    if categories and "category" in (options or {}):
        raise EvaluationError(
            f"`--category` must be left out where --dataset has a category, got {' '.join(categories)!r} and "
            f"{options['category']!r}. Leave one of them out."
        )
    # A category is in one of several folders, so these are read whole.
    choices = [{"category": one} for one in dict.fromkeys(categories or ())] if len(folders) == 1 else []
    joined: dict[str, list[Any]] = {}
    known: set[str] = set()
    for folder in folders:
        loaded = [load_anomaly_dataset(name, folder, **(options or {}), **choice) for choice in choices or [{}]]
        parts = [(split, rows) for splits in loaded for split, rows in splits.items()]
        found = {category for _, rows in parts for category in rows.unique("category")}
        if found & known:
            raise EvaluationError(
                f"`--data-dir` must hold {min(found & known)!r} in one folder only, got it in two. Leave one out."
            )
        known |= found
        names = [name for _, rows in parts for name in rows["image_id"]] if len(choices) > 1 else []
        if len(set(names)) < len(names):
            raise EvaluationError(
                f"`--category` must name sets of different pictures, got {' '.join(categories)!r} with the same ones. "
                "Name one of them, or choose by the options of --dataset alone."
            )
        for split, rows in parts:
            joined.setdefault(split, []).append(rows)
    unknown = set(categories or ()) - known
    if unknown and len(folders) > 1:
        raise EvaluationError(
            f"`--category` must be among {', '.join(sorted(known))}, got {min(unknown)!r}. Choose among them."
        )
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


def _check_shots(protocol: Any, shots: list[int | str], seeds: list[int], pictures: Any) -> None:
    """Refuses more references than a category has good pictures, before the model is loaded."""
    from ..data.sources import SourceRows
    from ..evaluation.evaluate import EvaluationError

    if pictures is None or not any(shots):
        return
    rows = SourceRows(pictures, "references")
    for category in sorted(set(rows.categories)):
        good = sum(at == category and not label for at, label in zip(rows.categories, rows.labels, strict=True))
        for shot, seed in ((shot, seed) for shot in shots if shot not in (0, "all") for seed in seeds):
            try:
                protocol.references(good, shot, seed)
            except ValueError as error:
                raise EvaluationError(f"{category!r}: {error}") from error


def _detectors(args: argparse.Namespace, inspector: Any, protocol: Any) -> list[Any]:
    """The methods asked for, in the order of the table."""
    from ..evaluation.baselines import Backbone, make_baselines
    from ..evaluation.detectors import AnomalyGPTDetector

    model = inspector.model
    if args.backbone:
        backbone = Backbone.load(args.backbone, args.backbone_size, args.backbone_layers, model.device)
    else:
        layers = args.backbone_layers or model.config.out_indices
        name = "own" if args.backbone_layers is None else f"own {'-'.join(map(str, args.backbone_layers))}"
        backbone = Backbone(name, model.model.vision_tower, inspector.processor.image_processor, layers)
    kinds: dict[str, dict[str, bool]] = {
        "anomalygpt": {},
        "anomalygpt_foreground": {"foreground": True},
        "anomalygpt_aligned": {"align": True},
        "anomalygpt_presence": {"presence": True},
    }
    settings = (inspector, protocol.published, not args.no_answers, args.batch_size)
    own: list[Any] = [AnomalyGPTDetector(*settings, **kind) for name, kind in kinds.items() if name in args.methods]
    others = [method for method in dict.fromkeys(args.methods) if method not in kinds]
    return own + make_baselines(others, backbone, inspector, args.batch_size)


def _facts(args: argparse.Namespace, inspector: Any, dataset: str, test: Any) -> dict[str, str]:
    """Columns that are the same in every row; refuses a checkpoint that saw the pictures."""
    from ..data.fingerprint import split_fingerprint
    from ..data.sources import SourceRows
    from ..evaluation.tables import result_facts

    categories = SourceRows(test, "test").categories
    parts = [[at for at, other in enumerate(categories) if other == name] for name in set(categories)]
    fingerprints = {split_fingerprint(test), *(split_fingerprint(test.select(part)) for part in parts)}
    saw = refuse_seen(args, [dataset], fingerprints)
    return result_facts(inspector.model, checkpoint_name(args)) | {"saw_test_pictures": saw}


def refuse_seen(args: argparse.Namespace, datasets: list[str], fingerprints: set[str]) -> str:
    """Refuses a checkpoint that was trained on these data sets, unless `--force`; returns what is known of it."""
    from ..evaluation.seen_data import SeenPicturesError, seen_pictures, training_record

    source = checkpoint_name(args)
    record = training_record(source)
    if record is None:
        return "not recorded"
    seen = next(filter(None, (seen_pictures(record, name, fingerprints) for name in datasets)), None)
    if seen is None:
        return "no"
    if not args.force:
        raise SeenPicturesError(
            f"`--model` must not have seen the pictures, got {source!r}, which was trained on {seen}. Take "
            "another checkpoint or another data set; --force measures it all the same."
        )
    print(f"Measured although it was trained on {seen}.", file=sys.stderr)
    return f"yes: {seen}"


def checkpoint_name(args: argparse.Namespace) -> str:
    """`--model`, or the folder of the embedded checkpoint."""
    from ..checkpoints import EMBEDDED_CHECKPOINT

    return args.model or str(EMBEDDED_CHECKPOINT)


def _shots(text: str) -> int | str:
    return text if text == "all" else whole(0, "; or all")(text)
