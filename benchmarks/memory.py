"""Peak memory of an evaluation, of conversions and of training, each in a process of its own.

    OMP_NUM_THREADS=1 python -m benchmarks.memory evaluation          # 1,000 pictures of 1024 x 1024
    python -m benchmarks.memory conversion                            # 15 GB of disk for a few minutes
    OMP_NUM_THREADS=1 nice -n 10 python -m benchmarks.memory training

Writes benchmarks/results/<part>_memory.csv. Nothing is downloaded: pictures and weights are drawn, at the sizes and in
the formats of real ones.

evaluation: `anomalygpt evaluate` with one reference, answers included, pixel metrics at full size. conversion: against
its bound, the largest shard that is read plus 2 GB, for ImageBind-Huge in one float32 file, and for a language model
of 3.3 billion parameters in two float16 files (half of Vicuna-7B's depth) with the LoRA merged on the way. training:
two optimizer steps on samples of 320 tokens; the figure is the peak less what the process held before the model was
made.
"""

import argparse
import csv
import io
import json
import pathlib
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import RESULTS, in_own_process, machine, peak_memory
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.golden_checkpoints import FILES, full_size_shapes, write_checkpoints, write_imagebind_huge

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "fixtures" / "golden"
WIDTH, DEPTH, MLP = 4096, 16, 11008  # Vicuna-7B has 32 blocks
BOUND = 2e9
TOKENS = 320
LANGUAGE = {  # a small language model of the usual shape, about 0.2 billion parameters
    "model_type": "llama", "vocab_size": 32001, "hidden_size": 1024, "intermediate_size": 2752,
    "num_hidden_layers": 12, "num_attention_heads": 16, "max_position_embeddings": 2048,
}  # fmt: skip
TRAININGS = [{"model": "embedded", "tuning": tuning, "batch": 8} for tuning in ("paper", "prompt", "lora", "full")] + [
    {"model": "imagebind_huge", "tuning": "paper", "batch": 1},
    {"model": "imagebind_huge", "tuning": "prompt", "batch": 1},
    {"model": "imagebind_huge", "tuning": "prompt", "batch": 1, "checkpointing": True},
    {"model": "imagebind_huge", "tuning": "lora", "batch": 1},
]


def draw_pictures(folder: pathlib.Path, pictures: int, side: int) -> None:
    """A set of noisy pictures in the MVTec layout; every second test picture has a bright square."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    for kind in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / kind).mkdir(parents=True)
    for number in range(pictures + 1):
        picture = texture + np.uint8(90 + number % 8)
        kind = "train/good" if number == pictures else "test/spot" if number % 2 else "test/good"
        if kind == "test/spot":
            row, column = rng.integers(0, side * 7 // 8, 2)
            square = np.s_[row : row + side // 8, column : column + side // 8]
            picture[square] += 60
            mask = np.zeros((side, side), np.uint8)
            mask[square] = 255
            Image.fromarray(mask).save(folder / "ground_truth/spot" / f"{number:05d}_mask.png", compress_level=1)
        Image.fromarray(picture).save(folder / kind / f"{number:05d}.jpg", quality=90)


def evaluate(folder: str, output: str) -> dict[str, Any]:
    """One evaluation, in this process."""
    from modeling_anomalygpt.cli import main as anomalygpt

    words = ["evaluate", "--dataset", "anomaly_folder", "--data-dir", folder, "--k-shot", "1", "--seeds", "0"]
    start = time.perf_counter()
    if anomalygpt([*words, "--device", "cpu", "--output", output]):
        raise SystemExit("The evaluation failed.")
    seconds = time.perf_counter() - start
    return {"peak_mb": round(peak_memory() / 1024**2), "seconds": round(seconds)}


def evaluation(place: pathlib.Path, pictures: int, side: int) -> list[dict[str, Any]]:
    """The row of an evaluation."""
    draw_pictures(place / "parts", pictures, side)
    row = run_in_own_process("evaluate", folder=str(place / "parts"), output=str(place / "results.csv"))
    return [{"pictures": pictures, "side": side} | row | {"seconds_per_picture": round(row["seconds"] / pictures, 3)}]


def write_language_model(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Small towers, a wide language model in two shards, deltas of its width."""
    write_checkpoints(GOLDEN, folder)
    spec = json.loads((GOLDEN / "checkpoint_spec.json").read_text())
    shapes = full_size_shapes(GOLDEN, WIDTH, DEPTH, MLP, spec["llama_config"]["vocab_size"])
    small = {key: tuple(entry["shape"]) for key, entry in spec["files"]["anomalygpt_delta"].items()}
    decoder = {key: shape for key, shape in small.items() if key.startswith("image_decoder.")}
    write_random(shapes["anomalygpt"] | decoder, folder / FILES["anomalygpt_delta"])
    projection = {"llama_proj.weight": (WIDTH, spec["dims"]["odim"])}
    write_random(shapes["pandagpt"] | projection, folder / FILES["pandagpt_delta"])
    keys = list(shapes["language_model"])
    for number, part in enumerate((keys[: len(keys) // 2], keys[len(keys) // 2 :]), 1):
        file = folder / "vicuna" / f"pytorch_model-{number:05d}-of-00002.bin"
        write_random({key: shapes["language_model"][key] for key in part}, file, torch.float16)
    (folder / FILES["vicuna"]).unlink()
    config = json.loads((folder / "vicuna" / "config.json").read_text())
    config |= {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": DEPTH}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32}
    (folder / "vicuna" / "config.json").write_text(json.dumps(config))
    deltas = {"pandagpt": folder / FILES["pandagpt_delta"], "anomalygpt": folder / FILES["anomalygpt_delta"]}
    return {"imagebind": folder / FILES["imagebind"], "vicuna": folder / "vicuna"} | deltas


def write_random(shapes: dict[str, tuple[int, ...]], path: pathlib.Path, dtype: torch.dtype = torch.float32) -> None:
    torch.save(
        {key: torch.empty(shape, dtype=dtype).uniform_(0.5, 1) * 0.02 + 1 for key, shape in shapes.items()}, path
    )


def convert(**arguments: str) -> dict[str, Any]:
    """One conversion, in this process."""
    from modeling_anomalygpt.conversion.convert import convert

    before, start = peak_memory(), time.perf_counter()
    report = convert(**arguments, progress=False)
    sizes = {"idle_gb": round(before / 1e9, 2), "peak_gb": round(peak_memory() / 1e9, 2)}
    return {"parameters": report.num_parameters, "seconds": round(time.perf_counter() - start, 1)} | sizes


def conversion(place: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of both conversions."""
    from modeling_anomalygpt.conversion.streams import Checkpoint
    from tests.clip_merges import write_merges

    rows = []
    writers = {"imagebind_huge": partial(write_imagebind_huge, GOLDEN), "language_model": write_language_model}
    for name, write in writers.items():
        work = place / name
        work.mkdir()
        files = write(work)
        read = [file.path.stat().st_size for part in files.values() for file in Checkpoint(part).files]
        merges = {"clip_bpe": str(write_merges(work / "merges.txt")), "output": str(work / "out")}
        row = run_in_own_process("convert", **{part: str(path) for part, path in files.items()}, **merges)
        sizes = {"read_gb": round(sum(read) / 1e9, 2), "largest_shard_gb": round(max(read) / 1e9, 2)}
        bound = round((max(read) + BOUND) / 1e9, 2)
        rows.append({"case": name} | sizes | row | {"bound_gb": bound, "within_bound": row["peak_gb"] <= bound})
        rows[-1] |= {name: machine()[name] for name in ("commit", "torch", "transformers")}
    return rows


def random_sample(config: AnomalyGPTConfig, side: int, seed: int) -> dict[str, torch.Tensor]:
    """A random picture with an answer of one length."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 2000, (TOKENS,), generator=generator)
    words[1 : 1 + config.num_image_tokens + config.num_prompt_tokens] = config.image_token_id
    return {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": words.where(torch.arange(TOKENS) > TOKENS // 2, -100),
        "pixel_values": torch.randn(3, side, side, generator=generator),
        "mask_labels": torch.randint(0, 2, (config.map_size,) * 2, generator=generator),
    }


def train(model: str, tuning: str, batch: int, checkpointing: bool = False) -> dict[str, Any]:
    """One training, in this process."""
    from transformers import TrainingArguments

    from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT, load_checkpoint
    from modeling_anomalygpt.training.trainer import AnomalyTrainer
    from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning

    before = peak_memory()
    if model == "embedded":
        network, _ = load_checkpoint(EMBEDDED_CHECKPOINT, device="cpu", dtype=torch.float32)
    else:  # the vision tower and the rest as published: ImageBind-Huge
        network = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig(text_config=LANGUAGE))
    total, side = network.num_parameters(), getattr(network.config.vision_config, "image_size", 224)
    network = prepare_for_tuning(network, TuningArguments(tuning))
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=2, per_device_train_batch_size=batch, use_cpu=True, save_strategy="no", report_to=[],
            disable_tqdm=True, logging_steps=2, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        samples = [random_sample(network.config, side, seed) for seed in range(2 * batch)]
        collator = torch.utils.data.default_collate
        AnomalyTrainer(network, args, train_dataset=samples, data_collator=collator).train()
    return {"parameters": total, "trained": trained, "peak GB": round((peak_memory() - before) / 1e9, 2)}


def training(place: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of trainings."""
    return [
        case | {"checkpointing": "checkpointing" in case} | run_in_own_process("train", **case) for case in TRAININGS
    ]


ALONE = {"evaluate": evaluate, "convert": convert, "train": train}


def run_in_own_process(task: str, **arguments: Any) -> dict[str, Any]:
    return in_own_process("benchmarks.memory", "alone", "--task", json.dumps([task, arguments]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("evaluation", "conversion", "training", "alone"))
    parser.add_argument("--pictures", type=int, default=1000, help="of the evaluation")
    parser.add_argument("--side", type=int, default=1024, help="of these pictures")
    parser.add_argument("--work", help="folder for files, on a disk with 20 GB (default: a temporary one)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "alone":
        name, arguments = json.loads(options.task)
        print(json.dumps(ALONE[name](**arguments)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        if options.part == "evaluation":
            rows = evaluation(pathlib.Path(place), options.pictures, options.side)
        else:
            rows = {"conversion": conversion, "training": training}[options.part](pathlib.Path(place))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(RESULTS / f"{options.part}_memory.csv", text.getvalue())
    print(text.getvalue())


if __name__ == "__main__":
    main()
