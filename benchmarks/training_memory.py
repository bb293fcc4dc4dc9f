"""Peak memory of training: measured on the CPU for models that fit here, computed for 7B and 13B.

    OMP_NUM_THREADS=1 nice -n 10 python -m benchmarks.training_memory

Every case is a process of its own: two optimizer steps on random samples of 320 tokens, weights drawn at random. The
figure is the largest resident memory of the process less that before the model was made. Computed rows say so; they
add the weights in their number format, float32 copies, gradients and Adam's two moments of what is trained, and the
stored inputs of the layers that gradients pass through.
"""

import argparse
import csv
import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

import torch
from transformers import TrainingArguments

from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT, load_checkpoint
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.training.trainer import AnomalyTrainer
from modeling_anomalygpt.training.tuning import OWN_PARTS, TuningArguments, prepare_for_tuning

RESULTS = pathlib.Path(__file__).parent / "results" / "training_memory.csv"
TOKENS = 320
LANGUAGE = {  # a small language model of the usual shape, about 0.2 billion parameters
    "model_type": "llama",
    "vocab_size": 32001,
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}
TEXT_TOWER = 354_000_000  # ImageBind's, frozen
HUGE = {"text_config": LANGUAGE}  # the vision tower and the rest as published: ImageBind-Huge
CASES = [{"model": "embedded", "tuning": tuning, "batch": 8} for tuning in ("paper", "prompt", "lora", "full")] + [
    {"model": "imagebind_huge", "tuning": "paper", "batch": 1},
    {"model": "imagebind_huge", "tuning": "prompt", "batch": 1},
    {"model": "imagebind_huge", "tuning": "prompt", "batch": 1, "checkpointing": True},
    {"model": "imagebind_huge", "tuning": "lora", "batch": 1},
]
COLUMNS = (
    "kind", "model", "parameters", "tuning", "trained", "dtype", "bf16", "4 bits", "checkpointing", "batch", "peak GB",
)  # fmt: skip


class RandomSamples(torch.utils.data.Dataset):
    """Random pictures and answers of one length."""

    def __init__(self, config: AnomalyGPTConfig, side: int, count: int):
        self.config, self.side, self.count = config, side, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        count = self.config.num_image_tokens + self.config.num_prompt_tokens
        words = torch.randint(5, 2000, (TOKENS,), generator=generator)
        words[1 : 1 + count] = self.config.image_token_id
        return {
            "input_ids": words,
            "attention_mask": torch.ones_like(words),
            "labels": words.where(torch.arange(TOKENS) > TOKENS // 2, -100),
            "pixel_values": torch.randn(3, self.side, self.side, generator=generator),
            "mask_labels": torch.randint(0, 2, (self.config.map_size,) * 2, generator=generator),
        }


def peak_memory() -> int:
    """Bytes that this process held at most (Linux)."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def measure(case: dict) -> dict:
    """One case, in this process."""
    before = peak_memory()
    dtype = getattr(torch, case.get("dtype", "float32"))
    if case["model"] == "embedded":
        model, _ = load_checkpoint(EMBEDDED_CHECKPOINT, device="cpu", dtype=dtype)
    else:
        torch.set_default_dtype(dtype)
        model = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig(**HUGE))
        torch.set_default_dtype(torch.float32)
    total = count(model)
    side = getattr(model.config.vision_config, "image_size", 224)
    model = prepare_for_tuning(model, TuningArguments(case["tuning"]))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=2, per_device_train_batch_size=case["batch"], use_cpu=True, save_strategy="no",
            report_to=[], disable_tqdm=True, bf16=case.get("bf16", False), logging_steps=2,
            gradient_checkpointing=case.get("checkpointing", False),
        )  # fmt: skip
        samples = RandomSamples(model.config, side, 2 * case["batch"])
        trainer = AnomalyTrainer(model, args, train_dataset=samples, data_collator=torch.utils.data.default_collate)
        trainer.train()
    return row("measured", case, total, trained, peak_memory() - before)


def computed(case: dict) -> dict:
    r"""
    Memory by addition, for models that do not fit here.

    Frozen: 2 bytes a weight (bfloat16), or 0.5625 for the language model's layers in 4 bits (with their scales).
    Trained: 16 bytes (float32 weight, gradient, two moments). Gradients pass through the language model, which stores
    34 bytes a token and width in each layer (https://arxiv.org/abs/2205.05198, without attention scores), with
    checkpointing 2 bytes and one layer in full; logits and their gradient in float32. The frozen towers store nothing.
    """
    width, depth, mlp = {"7B": (4096, 32, 11008), "13B": (5120, 40, 13824)}[case["model"]]
    language = LANGUAGE | {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": depth}
    with torch.device("meta"):
        model = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig(text_config=language))
    parts = OWN_PARTS[:2] if case["tuning"] == "paper" else OWN_PARTS
    own = sum(count(getattr(model.model, part)) for part in parts)
    layers = count(model.model.language_model.layers)
    total = count(model) + TEXT_TOWER
    added = {"paper": 0, "prompt": 9 * width, "lora": depth * 2 * 8 * 2 * width}[case["tuning"]]
    trained, vocabulary = own + added, language["vocab_size"]
    frozen = 2 * (total - layers - own) + (0.5625 if case.get("load_in_4bit") else 2) * layers
    tokens = case["batch"] * TOKENS
    stored = tokens * width * ((2 * depth + 34) if case.get("checkpointing") else 34 * depth)
    logits = 3 * 4 * tokens * vocabulary
    return row("computed", case, total, trained, frozen + 16 * trained + stored + logits)


def count(module: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def row(kind: str, case: dict, total: float, trained: float, peak: float) -> dict:
    """A row of the table."""
    said = {True: "yes", False: "no"}
    values = (
        kind, case["model"], int(total), case["tuning"], int(trained), case.get("dtype", "float32"),
        said[case.get("bf16", False)], said[case.get("load_in_4bit", False)], said[case.get("checkpointing", False)],
        case["batch"], f"{peak / 1e9:.2f}",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_memory")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--only", help="measure only cases of this model: embedded or imagebind_huge")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        print("RESULT " + json.dumps(measure(json.loads(options.case))), flush=True)
        return
    rows = []
    for case in CASES:
        if options.only in (None, case["model"]):
            command = [sys.executable, "-m", "benchmarks.training_memory", "--case", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True)
            found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
            if not found:
                raise SystemExit(f"{case} failed: {done.stderr.strip().splitlines()[-1:]}")
            rows.append(json.loads(found[1]))
            print(rows[-1], flush=True)
    for model in ("7B", "13B"):
        for tuning in ("paper", "prompt", "lora"):
            common = {"model": model, "tuning": tuning, "batch": 16, "dtype": "bfloat16", "bf16": True}
            rows += [computed(common), computed(common | {"checkpointing": True})]
        rows.append(computed(common | {"checkpointing": True, "load_in_4bit": True, "batch": 4}))
    with options.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{options.output}: torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
