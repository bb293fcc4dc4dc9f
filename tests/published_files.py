"""Conversions of the small published files, whole or changed in one place."""

import json
import shutil
from pathlib import Path

import torch

from modeling_anomalygpt.conversion.checks import ConversionReport
from modeling_anomalygpt.conversion.convert import convert
from tests.clip_merges import write_merges
from tests.golden_checkpoints import write_checkpoints

GOLDEN = Path(__file__).parent / "fixtures" / "golden"


def write_published_files(folder: Path) -> Path:
    """The four published files and CLIP's merges; returns `folder`."""
    write_checkpoints(GOLDEN, folder)
    write_merges(folder / "merges.txt")
    return folder


def run(published: Path, output: Path, **changes) -> ConversionReport:
    """Convert with the usual arguments, but float32 and `changes`."""
    arguments = {
        "imagebind": published / "imagebind_huge.pth",
        "vicuna": published / "vicuna",
        "pandagpt": published / "pandagpt" / "pytorch_model.pt",
        "anomalygpt": published / "anomalygpt" / "pytorch_model.pt",
        "clip_bpe": published / "merges.txt",
        "output": output,
        "dtype": "float32",
        "progress": False,
    }
    return convert(**(arguments | changes))


def changed(path: Path, target: Path, change) -> Path:
    """A copy of a checkpoint whose dictionary went through `change`."""
    tensors = torch.load(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(change(tensors) or tensors, target)
    return target


def vicuna_folder(published: Path, target: Path, config: dict | None = None, change=None) -> Path:
    """A copy of Vicuna's folder with other configuration values and weights."""
    shutil.copytree(published / "vicuna", target)
    values = json.loads((target / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(values))
    if change:
        changed(target / "pytorch_model.bin", target / "pytorch_model.bin", change)
    return target
