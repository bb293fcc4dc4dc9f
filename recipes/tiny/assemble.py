"""Puts a distilled vision model into an untrained AnomalyGPT, or the results of all stages into the final folder.

    python -m recipes.tiny.assemble start --vision DIR --tokenizer DIR --output DIR [--language DIR]
    python -m recipes.tiny.assemble finish --checkpoint DIR --evidence FILE.npz ... --output DIR

`finish` chooses the region threshold on the evidence (best F1 of pixels), and stores half-precision weights.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from recipes.tiny.composition import MAP_SIZE, untrained
from recipes.tiny.evidence import EvidenceFiles


def start(
    vision: pathlib.Path,
    tokenizer: pathlib.Path,
    output: pathlib.Path,
    pooling: int,
    raw: bool,
    language: pathlib.Path,
) -> None:
    """Vision tower and reference projections as distilled; language parts of an earlier stage; the rest random."""
    tower = AutoModel.from_pretrained(vision, dtype=torch.float32)
    projections = load_file(vision / "projections.safetensors")
    notes = json.loads((vision / "distillation.json").read_text())
    out_indices = sorted({pair[0] for pair in notes["layer_pairs"]})
    widths = [projections[f"reference_projections.{index}.weight"].shape[0] for index in range(len(out_indices))]
    torch.manual_seed(0)
    reference = {"reference_dims": None if raw else widths, "reference_pooling": pooling}
    model, processor = untrained(tower.config.to_dict(), tokenizer, out_indices, **reference)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    if not raw:
        model.model.localizer.load_state_dict(projections, strict=False)
    if language:
        earlier = AnomalyGPTForConditionalGeneration.from_pretrained(language, dtype=torch.float32).model
        for part in ("language_model", "prompt_learner", "multi_modal_projector"):
            getattr(model.model, part).load_state_dict(getattr(earlier, part).state_dict())
    model.save_pretrained(output)
    processor.save_pretrained(output)


def best_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """The map value at which the pixels above it agree best (F1) with the masks."""
    bins = 512
    histogram = np.zeros((2, bins), np.int64)
    for anomaly_map, packed in zip(maps, masks, strict=True):
        mask = np.unpackbits(packed, axis=-1)
        mask = cv2.resize(mask, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) > 0
        level = np.clip((anomaly_map.astype(np.float32) * bins).astype(np.int64), 0, bins - 1)
        for state in (0, 1):
            histogram[state] += np.bincount(level[mask == state], minlength=bins)
    below = np.cumsum(histogram, axis=1)
    false_positive, true_positive = (below[state, -1] - below[state] + histogram[state] for state in (0, 1))
    f1 = 2 * true_positive / (true_positive + false_positive + histogram[1].sum())
    return float(np.argmax(f1) / bins)


def finish(checkpoint: pathlib.Path, evidence: list[pathlib.Path], output: pathlib.Path) -> None:
    """Region threshold, stop tokens and half-precision weights."""
    model = AnomalyGPTForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AnomalyGPTProcessor.from_pretrained(checkpoint)
    seen = EvidenceFiles(evidence)
    threshold = best_threshold(seen.maps, seen.masks)
    model.config.region_threshold = round(threshold, 3)
    model.config.vision_config._name_or_path = ""  # a folder of the machine that made it
    model.generation_config.eos_token_id = processor.stop_token_ids
    model.generation_config.suppress_tokens = [model.config.image_token_id]
    model.half().save_pretrained(output)
    processor.save_pretrained(output)
    size = sum(file.stat().st_size for file in output.iterdir() if file.is_file()) / 1e6
    print(
        f"region threshold {threshold:.3f}; {model.num_parameters() / 1e6:.2f} M parameters; {size:.1f} MB -> {output}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.assemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("start", help="vision model and tokenizer into an untrained checkpoint")
    first.add_argument("--vision", type=pathlib.Path, required=True)
    first.add_argument("--tokenizer", type=pathlib.Path, required=True)
    first.add_argument("--output", type=pathlib.Path, required=True)
    first.add_argument("--language", type=pathlib.Path, help="folder whose language parts are taken over")
    first.add_argument("--raw", action="store_true", help="match raw features, without the learned projections")
    first.add_argument("--pooling", type=int, default=1, help="window of neighbouring patches that are averaged")
    last = stages.add_parser("finish", help="region threshold and half precision")
    last.add_argument("--checkpoint", type=pathlib.Path, required=True)
    last.add_argument("--evidence", type=pathlib.Path, nargs="+", required=True)
    last.add_argument("--output", type=pathlib.Path, required=True)
    options = vars(parser.parse_args(arguments))
    {"start": start, "finish": finish}[options.pop("stage")](**options)


if __name__ == "__main__":
    main()
