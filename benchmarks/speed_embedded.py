"""The embedded checkpoint on the example pictures: map, verdict, answer; what caches save; number formats.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_embedded [--rounds 7]

Pictures are decoded before, except where "end to end" is said. The last line printed is the result as JSON.
"""

import argparse
import importlib.util
import json
import pathlib
import tempfile

import numpy as np
import torch
from PIL import Image
from transformers import TorchAoConfig

from benchmarks.measuring import ROOT, in_turns, peak_memory, ratio, summary
from modeling_anomalygpt import UNQUANTIZED_MODULES, AnomalyInspector, load_picture
from modeling_anomalygpt.dialogue import with_picture

GOOD = sorted((ROOT / "examples" / "capsules" / "good").glob("*.jpg"))[:1]
QUERIES = sorted((ROOT / "examples" / "capsules" / "query").glob("*.jpg"))


def pictures(number: int) -> list[Image.Image]:
    """The example queries, repeated."""
    loaded = [load_picture(path) for path in QUERIES]
    return [loaded[index % len(loaded)] for index in range(number)]


def stages(inspector: AnomalyInspector, rounds: int) -> dict:
    """Map only, map and verdict, and a one-sentence answer, at batch 1 and 16: milliseconds a picture."""
    rows = {}
    for batch in (1, 16):
        shown = pictures(batch)

        def run(shown=shown, batch=batch, **options):
            return list(inspector.inspect_many(shown, batch_size=batch, progress=False, **options))

        times = in_turns(
            {
                "map": lambda run=run: run(use_language=False),
                "verdict": lambda run=run: run(answer=False),
                "answer": run,
            },
            rounds,
        )
        rows[f"batch {batch}"] = {name: summary(values, per_call=batch) for name, values in times.items()}
    return rows


@torch.inference_mode()
def answering(inspector: AnomalyInspector, rounds: int) -> dict:
    """Prefill, tokens a second, a verdict against a generated answer, and a follow-up against a second look."""
    processor, model = inspector.processor, inspector.model
    image = pictures(2)[1]
    features = model.model.get_image_features(
        processor(images=[image], return_tensors="pt")["pixel_values"],
        memory_bank=inspector.memory_bank,
        return_dict=True,
    )
    turns = [{"role": "user", "content": "Is there any anomaly in the image?"}]
    rendered = processor.apply_chat_template(with_picture(turns), add_generation_prompt=True)
    ids = torch.tensor([processor.encode_prompt(rendered)])
    inputs = {"input_ids": ids, "mm_encoder_outputs": {"image": features}}
    length = 64

    def generate(tokens: int):
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    batch = 8
    together = {
        "input_ids": ids.repeat(batch, 1),
        "mm_encoder_outputs": {
            "image": model.model.get_image_features(
                processor(images=[image] * batch, return_tensors="pt")["pixel_values"],
                memory_bank=inspector.memory_bank,
                return_dict=True,
            )
        },
    }

    def generate_together(tokens: int):
        model.generate(**together, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    result = inspector.inspect(image)
    question = "Where is the anomaly?"

    def follow_up():
        held = list(result.conversation)
        inspector.ask(result, question)
        result.conversation = held

    times = in_turns(
        {
            "prefill": lambda: model(**inputs, logits_to_keep=1),
            "verdict": lambda: inspector.inspect(image, answer=False),
            "answer": lambda: inspector.inspect(image),
            "64 tokens": lambda: generate(length),
            "1 token": lambda: generate(1),
            "64 tokens, together": lambda: generate_together(length),
            "1 token, together": lambda: generate_together(1),
            "follow-up": follow_up,
            "second look": lambda: inspector.inspect(image, question=question),
        },
        rounds,
    )
    per_token = (np.median(times["64 tokens"]) - np.median(times["1 token"])) / (length - 1)
    per_step = (np.median(times["64 tokens, together"]) - np.median(times["1 token, together"])) / (length - 1)
    return {
        "batch_generation": {
            "batch": batch,
            "tokens_per_second": round(batch / per_step, 1),
            "to_one": round(batch * per_token / per_step, 2),
        },
        "prompt_tokens": ids.shape[1],
        "prefill": summary(times["prefill"]),
        "tokens_per_second": round(1 / per_token, 1),
        "answer_to_verdict_ratio": ratio(times["answer"], times["verdict"]),
        "second_look_to_follow_up_ratio": ratio(times["second look"], times["follow-up"]),
    }


def variants(rounds: int) -> dict:
    """Other ways to run the same weights against float32: time of a verdict, and how far the maps lie apart."""
    inspectors = {"float32": AnomalyInspector.from_pretrained(dtype="float32")}
    inspectors["bfloat16"] = AnomalyInspector.from_pretrained(dtype="bfloat16")
    inspectors["compiled vision tower"] = compiled = AnomalyInspector.from_pretrained(dtype="float32")
    compiled.model.model.vision_tower = torch.compile(compiled.model.model.vision_tower)
    if importlib.util.find_spec("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig

        settings = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=UNQUANTIZED_MODULES)
        inspectors["int8 language model"] = AnomalyInspector.from_pretrained(quantization_config=settings)
    shown = pictures(len(QUERIES))
    for one in inspectors.values():
        one.set_references(GOOD, category="capsules")
    maps = {
        name: [result.anomaly_map for result in one.inspect_many(shown, progress=False, use_language=False)]
        for name, one in inspectors.items()
    }
    times = in_turns(
        {name: lambda one=one: one.inspect(shown[0], answer=False) for name, one in inspectors.items()}, rounds
    )
    rows = {}
    for name in list(inspectors)[1:]:
        apart = max(float(np.abs(a - b).max()) for a, b in zip(maps["float32"], maps[name], strict=True))
        rows[name] = {
            "time_to_float32": ratio(times[name], times["float32"]),
            "largest_map_difference": round(apart, 5),
        }
    return rows | {"avx512_bf16": "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text()}


def end_to_end(inspector: AnomalyInspector, number: int) -> dict:
    """JPEG files of 1024 px from the disk to verdicts, reading ahead or not: seconds and ratio."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, image in enumerate(pictures(number)):
            file = pathlib.Path(folder) / f"{index:05d}.jpg"
            image.resize((1024, 1024), Image.Resampling.BICUBIC).save(file, quality=92)
            files.append(file)

        def decode():
            for file in files:
                load_picture(file)

        def inspect():
            for _ in inspector.inspect_many(files, batch_size=8, progress=False, answer=False):
                pass

        shown = [load_picture(file) for file in files[:64]]

        def model_only():
            for _ in inspector.inspect_many(shown, batch_size=8, progress=False, answer=False):
                pass

        times = in_turns({"decode": decode, "end to end": inspect, "model only": model_only}, 1, warm_up=0)
    model_seconds = times["model only"][0] * number / len(shown)
    return {
        "pictures": number,
        "pictures_per_second": round(number / times["end to end"][0], 1),
        "end_to_end_to_decode_plus_model": round(times["end to end"][0] / (times["decode"][0] + model_seconds), 3),
    }


def main() -> None:
    """Runs the measurements and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_embedded", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=1000, help="JPEG files for the end-to-end part")
    options = parser.parse_args()
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references(GOOD, category="capsules")
    result = {
        "threads": torch.get_num_threads(),
        "stages": stages(inspector, options.rounds),
        "answering": answering(inspector, options.rounds),
        "variants": variants(options.rounds),
        "end_to_end": end_to_end(inspector, options.files),
        "peak_memory_bytes": peak_memory(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
