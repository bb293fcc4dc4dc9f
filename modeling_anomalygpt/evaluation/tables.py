"""The table of an evaluation: one row a method, category, number of references and seed; kept in a CSV file.

Knows names of columns and files; knows no pictures and no models.
"""

import csv
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from ..files import write_atomically
from ..memory_bank import weights_fingerprint

_PACKAGES = ("torch", "transformers", "numpy", "pillow")


def result_facts(model: torch.nn.Module, checkpoint: str) -> dict[str, str]:
    """Columns that tell which code and weights made a row.

    Args:
        model (`torch.nn.Module`): The loaded model.
        checkpoint (`str`): How it was named; a folder is named by its last part.

    Returns:
        `dict[str, str]`: `checkpoint`, `checkpoint_hash` (of a sample of every weight and of the configuration's own
        settings, such as `decision`), `versions`, `commit` (empty outside a repository; with `+changes` where files of
        the package differ from it).
    """
    config = model.config
    settings = {name: getattr(config, name) for name in type(config).__annotations__ if name not in config.sub_configs}
    name = pathlib.Path(checkpoint).resolve().name if os.path.isdir(checkpoint) else checkpoint
    versions = [f"python {platform.python_version()}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    return {
        "checkpoint": name,
        "checkpoint_hash": weights_fingerprint([model], (json.dumps(settings, sort_keys=True),)),
        "versions": "; ".join(versions),
        "commit": source_commit(),
    }


def source_commit() -> str:
    """The commit of the package's source, where it lies in a git repository; else nothing."""
    folder = pathlib.Path(__file__).parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return ""
    return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def _git(folder: pathlib.Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


KEY = (
    "dataset", "category", "split_hash", "limit", "method", "backbone", "protocol", "k_shot", "seed",
    "references_from", "checkpoint_hash", "answers",
)  # fmt: skip
"""Columns that say what was measured: a table has one row of the same values, not measured again while the references
are the same pictures (`references_hash`)."""

METRICS = (
    "image_auroc", "image_average_precision", "image_f1_max", "pixel_auroc", "pixel_average_precision",
    "pixel_f1_max", "aupro_0.3", "aupro_0.05", "accuracy_paper", "accuracy_log_odds", "accuracy_verdict",
    "balanced_accuracy", "balanced_accuracy_decided", "balanced_accuracy_log_odds", "balanced_accuracy_map",
    "balanced_accuracy_forced", "oracle_balanced_accuracy", "oracle_accuracy", "false_alarm_rate", "miss_rate",
    "uncertain_rate", "positions_exact", "positions_overlap", "count_exact",
)  # fmt: skip
"""Columns of metrics, each in [0, 1]; empty where a method, a protocol or missing masks allow none."""

FIELDS = (
    *KEY, "checkpoint", "saw_test_pictures", "references", "references_hash", *METRICS, "num_pictures",
    "num_anomalous", "num_masks", "seconds", "num_processes", "versions", "commit",
)  # fmt: skip
"""All columns, in order."""


class EvaluationRows:
    """Rows in a CSV file that is rewritten atomically at every new row, with those of other processes.

    A row with other references takes the place of an earlier one with the same [`KEY`].

    Args:
        path (`str` or `os.PathLike`): The file. Rows of one that is there are kept.

    Raises:
        ValueError: If the file is another kind of table.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        if not self.path.parent.is_dir():
            raise ValueError(f"`--output` must be in a folder that exists, got {str(self.path)!r}. Make the folder.")
        self.rows = read_rows(self.path) if self.path.exists() else []

    def find(self, key: Mapping[str, Any]) -> dict[str, str] | None:
        """The row of that key and `references_hash`, if it was measured before."""
        wanted, references = _key_of(key), as_text(key.get("references_hash"))
        return next(
            (row for row in self.rows if _key_of(row) == wanted and row["references_hash"] == references), None
        )

    def add(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Adds a row, as text, and writes the file; a row that another process has added meanwhile is that one."""
        text = {name: as_text(row.get(name)) for name in FIELDS}
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            written = read_rows(self.path) if self.path.exists() else []
            keys = {_key_of(one) for one in written}  # these count: another process may have replaced one of ours
            self.rows = written + [own for own in self.rows if _key_of(own) not in keys]
            if (known := self.find(text)) is not None:
                return known
            self.rows = [other for other in self.rows if _key_of(other) != _key_of(text)] + [text]
            self._write()
        return text

    def _write(self) -> None:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, file.getvalue())


def _key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(as_text(row[name]) for name in KEY)


def read_rows(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of such a file, values as text; a `ValueError` where it is another kind of table."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # Excel's mark
            table = csv.DictReader(file)
            rows = list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`--output` must be a table of results, got {os.fspath(path)!r} ({error}). Choose another file."
        ) from error
    if tuple(table.fieldnames or ()) != FIELDS:
        raise ValueError(
            f"`--output` must be a table that this version of `anomalygpt evaluate` wrote, got {os.fspath(path)!r} "
            "with other columns. Choose another file."
        )
    return rows


def as_text(value: Any) -> str:
    """A value as it stands in the file: numbers with six digits after the point, nothing for `None`."""
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


LOWER_IS_BETTER = ("false_alarm_rate", "miss_rate", "uncertain_rate")


class Summary(NamedTuple):
    """One metric over categories and seeds.

    Attributes:
        mean (`float`): Over the categories, of each category's mean over seeds.
        seeds (`float`, *optional*): Standard deviation over seeds of the mean over categories; `None` of one seed.
        categories (`float`, *optional*): That of the categories' means; `None` of one category.
        worst (`float`): The worst category's mean.
    """

    mean: float
    seeds: float | None
    categories: float | None
    worst: float


def summarize(rows: Iterable[Mapping[str, str]], metrics: Sequence[str] = METRICS) -> list[dict[str, Any]]:
    """Means, spreads and the worst category, one row a data set, protocol, method and number of references.

    Args:
        rows (`list[dict[str, str]]`): Of [`EvaluationRows`].
        metrics (`list[str]`): Columns.

    Returns:
        `list[dict]`: `dataset`, `protocol`, `method`, `backbone`, `k_shot`, `categories` and `seeds` (counts), and a
        [`Summary`] for each metric, `None` where no row has it.

    Raises:
        ValueError: If two rows of a group are of one category and seed.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    names = ("dataset", "protocol", "method", "backbone", "k_shot")
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    summaries = []
    for group, members in groups.items():
        summary: dict[str, Any] = dict(zip(names, group, strict=True))
        summary["categories"] = len({row["category"] for row in members})
        summary["seeds"] = len({row["seed"] for row in members})
        for metric in metrics:
            summary[metric] = _summary([row for row in members if row[metric] != ""], metric)
        summaries.append(summary)
    return summaries


def _summary(rows: list[Mapping[str, str]], metric: str) -> Summary | None:
    if not rows:
        return None
    by_category: dict[str, dict[str, float]] = {}
    for row in rows:
        seeds_of_one = by_category.setdefault(row["category"], {})
        if row["seed"] in seeds_of_one:
            raise ValueError(
                f"`rows` must hold one row a category and seed, got two of {row['category']!r} with seed "
                f"{row['seed']}: of another checkpoint, say. Summarise each alone."
            )
        seeds_of_one[row["seed"]] = float(row[metric])
    means = [statistics.fmean(values.values()) for values in by_category.values()]
    shared = set.intersection(*(set(values) for values in by_category.values()))
    seeds = [statistics.fmean(values[seed] for values in by_category.values()) for seed in sorted(shared)]
    worst = max(means) if metric in LOWER_IS_BETTER else min(means)
    return Summary(statistics.fmean(means), _deviation(seeds), _deviation(means), worst)


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
