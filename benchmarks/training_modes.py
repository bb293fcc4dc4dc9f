"""Trains the embedded checkpoint in each of the four modes from the command line, and loads what comes out.

    OMP_NUM_THREADS=1 python -m benchmarks.training_modes --hazelnut DIR

Two data sets: drawn parts, and a folder of photographs in MVTec's layout. A case is what `anomalygpt train ...` does
with the words it prints; the model in memory at its end is then asked about eight samples, and so are the folder
loaded by transformers' auto class and by the inspector, all in float32. Prints the table of docs/training.md.
"""

import argparse
import contextlib
import csv
import io
import json
import pathlib
import tempfile
import time
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from modeling_anomalygpt import AnomalyInspector, register
from modeling_anomalygpt.cli import main as command
from modeling_anomalygpt.training.trainer import AnomalyTrainer
from modeling_anomalygpt.training.tuning import TUNING_MODES

RESULTS = pathlib.Path(__file__).parent / "results" / "training_modes.csv"
PARTS = "rendered_parts?families=screw,gear,hex_nut,leather&num_train=8&num_test=4"
COLUMNS = (
    "data", "tuning", "steps", "loss first", "loss last", "measured before", "measured after", "lm", "focal", "dice",
    "auto class", "inspector", "minutes",
)  # fmt: skip


class LastRun:
    """Keeps the trainer of a run that the command line starts, and what its model says at the end."""

    def __init__(self) -> None:
        self.trainer: AnomalyTrainer | None = None
        self._save = AnomalyTrainer.save_model

    def __enter__(self) -> "LastRun":
        def save(trainer: AnomalyTrainer, *args: Any, **kwargs: Any) -> None:
            self._save(trainer, *args, **kwargs)
            self.trainer = trainer

        AnomalyTrainer.save_model = save
        return self

    def __exit__(self, *_: Any) -> None:
        AnomalyTrainer.save_model = self._save


@torch.no_grad()
def says(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the text and the map."""
    outputs = model.eval()(**inputs)
    return outputs.logits[:, -inputs["input_ids"].shape[1] :], outputs.anomaly_map


def difference(one: tuple, other: tuple) -> float:
    """The largest difference of logits or maps."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def run(data: str, tuning: str, steps: int, folder: pathlib.Path) -> dict[str, Any]:
    """One case."""
    output = folder / f"{data.partition('=')[0].partition('?')[0]}-{tuning}"
    words = [
        "train", "--tuning", tuning, "--dataset", data, "--eval_dataset", data, "--eval_samples", "8",
        "--max_steps", str(steps), "--save_steps", str(steps), "--logging_steps", "1", "--languages", "en,zh",
        "--per_device_train_batch_size", "4", "--report_to", "none", "--use_cpu", "True", "--output_dir", str(output),
    ]  # fmt: skip
    if tuning == "full":
        words += ["--learning_rate", "1e-4"]
    print("anomalygpt", *words, flush=True)
    torch.set_num_threads(1)
    start = time.monotonic()
    with LastRun() as last, contextlib.redirect_stdout(io.StringIO()):
        code = command(words)
    if code or last.trainer is None:
        raise SystemExit(f"anomalygpt train ended with {code}")
    trainer, minutes = last.trainer, (time.monotonic() - start) / 60
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "mask_labels", "image_ids")}
    expected = says(trainer.model, inputs)
    register()
    auto = says(AutoModelForImageTextToText.from_pretrained(output, dtype=torch.float32), inputs)
    inspector = says(AnomalyInspector.from_pretrained(output, device="cpu").model, inputs)
    found = {
        "data": data.partition("=")[0].partition("?")[0], "tuning": tuning, "steps": steps,
        "loss first": sum(losses[:8]) / 8, "loss last": sum(losses[-8:]) / 8,
        "measured before": measured[0]["eval_loss"], "measured after": measured[-1]["eval_loss"],
        **{
            name: f"{measured[0][f'eval_loss_{name}']:.3f} to {measured[-1][f'eval_loss_{name}']:.3f}"
            for name in ("lm", "focal", "dice")
        },
        "auto class": difference(expected, auto), "inspector": difference(expected, inspector), "minutes": minutes,
    }  # fmt: skip
    return {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_modes")
    parser.add_argument("--hazelnut", type=pathlib.Path, help="photographs in MVTec's layout; else drawn parts alone")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--tuning", nargs="+", choices=TUNING_MODES, default=TUNING_MODES)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    sets = [PARTS] + ([f"anomaly_folder={options.hazelnut}"] if options.hazelnut else [])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for data in sets:
            for tuning in options.tuning:
                rows.append(run(data, tuning, options.steps, pathlib.Path(folder)))
                print(json.dumps(rows[-1]), flush=True)
    with options.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in COLUMNS) + " |")


if __name__ == "__main__":
    main()
