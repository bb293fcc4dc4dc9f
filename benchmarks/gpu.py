"""The published sizes on one GPU, with random weights: ImageBind-Huge, a 7B language model, bfloat16.

    sh benchmarks/gpu.sh            # or: python -m benchmarks.gpu [--output FILE] [--device cuda]
    python -m benchmarks.gpu --tiny --device cpu       # tries the script anywhere, with towers of a few layers

Absolute figures that belong to the card named in them; weights do not matter for time and memory, so nothing is
downloaded. Each part is written to the file as soon as it is known. Times are medians; the device is waited for before
and after each call.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import RESULTS, machine, peak_memory, write_result
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning

WORDS = 60  # of the question, beside the picture's placeholders; the published one has about so many
TINY = {
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 2, "image_size": 224, "patch_size": 14,
    },
    "text_config": {
        "model_type": "llama", "vocab_size": 32001, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 2048,
    },
    "projection_dim": 32,
    "out_indices": [1, 2, 3, 4],
    "prompt_channels": [4, 8, 16, 16, 16],
}  # fmt: skip


class Measure:
    """Calls on one device: seconds and memory."""

    def __init__(self, device: torch.device, rounds: int):
        self.device, self.rounds = device, rounds

    def __call__(self, call: Callable[[], Any], rounds: int | None = None) -> dict[str, float]:
        """Median milliseconds, and the peak of the memory: allocated on the GPU, or held by the process."""
        on_gpu, milliseconds = self.device.type == "cuda", []
        wait = partial(torch.cuda.synchronize, self.device) if on_gpu else lambda: None
        call()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(rounds or self.rounds):
            wait()
            start = time.perf_counter()
            call()
            wait()
            milliseconds.append(1000 * (time.perf_counter() - start))
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else peak_memory()
        return {"median_ms": round(statistics.median(milliseconds), 2), "peak_gigabytes": round(peak / 1e9, 3)}


def build(tiny: bool, device: torch.device) -> AnomalyGPTForConditionalGeneration:
    """The model with random weights, made on the device; the localizer stays float32 as in a checkpoint."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig(**(TINY if tiny else {})))
    torch.set_default_dtype(torch.float32)
    model.model.localizer.float()
    return model.eval()


def prompt(model: AnomalyGPTForConditionalGeneration, batch: int, length: int = 0) -> dict[str, torch.Tensor]:
    """A picture's placeholders and a question's words."""
    count = model.config.num_image_tokens + model.config.num_prompt_tokens
    ids = torch.randint(5, 2000, (batch, max(length, 1 + count + WORDS)), device=model.device)
    ids[:, 1 : 1 + count] = model.config.image_token_id
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pictures(model: AnomalyGPTForConditionalGeneration, batch: int) -> torch.Tensor:
    """Normalised random pictures."""
    return torch.randn(batch, 3, 224, 224, device=model.device, dtype=torch.bfloat16)


@torch.inference_mode()
def inspecting(model: AnomalyGPTForConditionalGeneration, measure: Measure, batches: tuple[int, ...]) -> dict:
    """Map, verdict (map and one forward step of the language model) and answer, at several batch sizes."""
    bank = MemoryBank.build(model.model.get_patch_features(pictures(model, 1)))
    rows = {}
    for batch in batches:
        shown, words = pictures(model, batch), prompt(model, batch)

        def see(shown=shown):
            return model.model.get_image_features(shown, memory_bank=bank, return_dict=True)

        def verdict(see=see, words=words):
            return model(**words, mm_encoder_outputs={"image": see()}, logits_to_keep=1).logits

        rows[f"batch {batch}"] = row = {"map": measure(see), "verdict": measure(verdict)}
        for name in ("map", "verdict"):
            row[name]["pictures_per_second"] = round(1000 * batch / row[name]["median_ms"], 2)
    return rows


@torch.inference_mode()
def answering(
    model: AnomalyGPTForConditionalGeneration, measure: Measure, batches: tuple[int, ...], tokens: int
) -> dict:
    """Prefill, and tokens a second of greedy answers of one length."""
    rows = {}
    for batch in batches:
        words = prompt(model, batch)
        seen = model.model.get_image_features(pictures(model, batch), return_dict=True)
        inputs = words | {"mm_encoder_outputs": {"image": seen}}

        def generate(count: int, inputs=inputs):
            return model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)

        row = {"prefill": measure(lambda inputs=inputs: model(**inputs, logits_to_keep=1))}
        row["answer"] = measure(lambda generate=generate: generate(tokens), rounds=3)
        first = measure(lambda generate=generate: generate(1), rounds=3)
        seconds = (row["answer"]["median_ms"] - first["median_ms"]) / 1000
        row["tokens_per_second"] = round(batch * (tokens - 1) / seconds, 1)
        rows[f"batch {batch}"] = row | {"answer_tokens": tokens, "prompt_tokens": words["input_ids"].shape[1]}
    return rows


def training(model: AnomalyGPTForConditionalGeneration, measure: Measure, batches: tuple[int, ...]) -> dict:
    """A step (forward, backward, AdamW) of the prompt mode: own parts and virtual tokens; the towers are frozen."""
    adapted = prepare_for_tuning(model, TuningArguments("prompt"))
    adapted.train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    rows: dict[str, Any] = {"trained_parameters": sum(parameter.numel() for parameter in trained)}
    for batch in batches:
        inputs = prompt(model, batch, 320)
        inputs["labels"] = inputs["input_ids"].where(torch.arange(320, device=model.device) > 160, -100)
        inputs["pixel_values"] = pictures(model, batch)
        size = (batch, model.config.map_size, model.config.map_size)
        inputs["mask_labels"] = torch.randint(0, 2, size, device=model.device)

        def step(inputs=inputs):
            with torch.autocast(model.device.type, torch.bfloat16):
                adapted(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        rows[f"batch {batch}"] = row = measure(step)
        row["samples_per_second"] = round(1000 * batch / row["median_ms"], 2)
    return rows


def card(device: torch.device) -> dict[str, Any]:
    """The name of the device and what belongs to it."""
    if device.type != "cuda":
        return {"card": "none (CPU)"}
    properties = torch.cuda.get_device_properties(device)
    return {"card": properties.name, "gigabytes": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda}


def main() -> None:
    """Runs the parts one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="small towers and batches, to try the script")
    parser.add_argument("--output", type=pathlib.Path, help="default: benchmarks/results/gpu.json; none with --tiny")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; `--tiny --device cpu` tries the script without one")
    output = options.output or (None if options.tiny else RESULTS / "gpu.json")
    device, start = torch.device(options.device), time.perf_counter()
    model = build(options.tiny, device)
    result: dict[str, Any] = {
        "tiny": options.tiny,
        **card(device),
        "machine": machine(),
        "parameters": model.num_parameters(),
        "dtype": "bfloat16, localizer float32",
        "made_in_seconds": round(time.perf_counter() - start, 1),
    }
    measure = Measure(device, 2 if options.tiny else options.rounds)
    few = (1, 2)
    parts = {
        "inspecting": lambda: inspecting(model, measure, few if options.tiny else (1, 4, 16, 64)),
        "answering": lambda: answering(model, measure, *((few, 8) if options.tiny else ((1, 16), 128))),
        "training": lambda: training(model, measure, few if options.tiny else (1, 8)),
    }
    for name, part in parts.items():
        result[name] = part()
        result["minutes"] = round((time.perf_counter() - start) / 60, 2)
        if output is not None:
            write_result(output, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
