"""Peak memory and time of a conversion, against its bound: the largest shard that is read plus 2 GB.

Weights are drawn by a rule, so nothing is downloaded; sizes and file formats are those of the published files.

    python -m benchmarks.conversion_memory                    # both cases, 15 GB of disk for a few minutes
    python -m benchmarks.conversion_memory --cases language_model

`imagebind_huge`: ImageBind-Huge in one float32 file. `language_model`: 3.3 billion parameters in two float16 files
of 3 GB, half of Vicuna-7B's depth, with the LoRA merged on the way.
"""

import argparse
import csv
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

from modeling_anomalygpt.conversion.convert import convert
from modeling_anomalygpt.conversion.streams import Checkpoint
from tests.clip_merges import write_merges
from tests.golden_checkpoints import FILES, full_size_shapes, write_checkpoints, write_imagebind_huge

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "fixtures" / "golden"
RESULTS = ROOT / "benchmarks" / "results" / "conversion_memory.csv"
WIDTH, DEPTH, MLP = 4096, 16, 11008  # Vicuna-7B has 32 blocks
BOUND = 2e9


def write_language_model(folder: Path) -> dict[str, Path]:
    """Small towers, a wide language model in two shards, deltas of its width."""
    write_checkpoints(GOLDEN, folder)
    spec = json.loads((GOLDEN / "checkpoint_spec.json").read_text())
    shapes = full_size_shapes(GOLDEN, WIDTH, DEPTH, MLP, spec["llama_config"]["vocab_size"])
    small = {key: tuple(entry["shape"]) for key, entry in spec["files"]["anomalygpt_delta"].items()}
    wide = shapes["anomalygpt"]
    decoder = {key: shape for key, shape in small.items() if key.startswith("image_decoder.")}
    panda = shapes["pandagpt"] | {"llama_proj.weight": (WIDTH, spec["dims"]["odim"])}
    random_file(wide | decoder, folder / FILES["anomalygpt_delta"])
    random_file(panda, folder / FILES["pandagpt_delta"])
    keys = list(shapes["language_model"])
    for i, part in enumerate((keys[: len(keys) // 2], keys[len(keys) // 2 :]), 1):
        file = folder / "vicuna" / f"pytorch_model-{i:05d}-of-00002.bin"
        random_file({key: shapes["language_model"][key] for key in part}, file, torch.float16)
    (folder / FILES["vicuna"]).unlink()
    config = json.loads((folder / "vicuna" / "config.json").read_text())
    config |= {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": DEPTH}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32}
    (folder / "vicuna" / "config.json").write_text(json.dumps(config))
    return {
        "imagebind": folder / FILES["imagebind"],
        "vicuna": folder / "vicuna",
        "pandagpt": folder / FILES["pandagpt_delta"],
        "anomalygpt": folder / FILES["anomalygpt_delta"],
    }


def random_file(shapes: dict[str, tuple[int, ...]], path: Path, dtype: torch.dtype = torch.float32) -> None:
    torch.save(
        {key: torch.empty(shape, dtype=dtype).uniform_(0.5, 1) * 0.02 + 1 for key, shape in shapes.items()}, path
    )


CASES = {"imagebind_huge": lambda folder: write_imagebind_huge(GOLDEN, folder), "language_model": write_language_model}


def peak_memory() -> int:
    """Bytes this process held at most, mapped file pages included (Linux; `ru_maxrss` would inherit the parent's)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def measure(arguments: dict[str, str]) -> dict[str, float]:
    """Convert in this process."""
    before = peak_memory()
    start = time.perf_counter()
    report = convert(**arguments, progress=False)
    return {
        "parameters": report.num_parameters,
        "seconds": round(time.perf_counter() - start, 1),
        "idle_gb": round(before / 1e9, 2),
        "peak_gb": round(peak_memory() / 1e9, 2),
    }


def run_case(name: str, work: Path) -> dict[str, object]:
    files = CASES[name](work)
    read = [file.path.stat().st_size for part in files.values() for file in Checkpoint(part).files]
    arguments = {part: str(path) for part, path in files.items()}
    arguments |= {"clip_bpe": str(write_merges(work / "merges.txt")), "output": str(work / "out")}
    command = [sys.executable, "-m", "benchmarks.conversion_memory", "--measure", json.dumps(arguments)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    row = {
        "case": name,
        "read_gb": round(sum(read) / 1e9, 2),
        "largest_shard_gb": round(max(read) / 1e9, 2),
        **json.loads(child.stdout.splitlines()[-1]),
    }
    row["bound_gb"] = round((max(read) + BOUND) / 1e9, 2)
    row["within_bound"] = row["peak_gb"] <= row["bound_gb"]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return row | {
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"CPU, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--work", help="folder for the files, on a disk with 20 GB (default: a temporary one)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(json.loads(args.measure))))
        return 0
    rows = []
    for name in args.cases:
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            rows.append(run_case(name, Path(work)))
        print(json.dumps(rows[-1]))
    if RESULTS.is_file():
        with open(RESULTS, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["case"] not in args.cases] + rows
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["case"]))
    return 0 if all(str(row["within_bound"]) == "True" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
