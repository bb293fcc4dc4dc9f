"""The embedded checkpoint with MobileNetV2 in the place of its vision model, to measure decisions on other features.

    python -m benchmarks.teacher_model --weights mobilenet_v2_imagenet.safetensors --output DIR
    python -m benchmarks.quality --model DIR --data DATA --output benchmarks/results/quality_teacher.csv

Blocks 4 and 11, averaged over 3 x 3 places, as the baseline of PatchCore does. The language model is the embedded one:
it reads relative maps, whatever features they come from. Its global vector means nothing here.
`normal_distance` belongs to the features; `python -m benchmarks.decision_weights --data DATA --model DIR`.
"""

import argparse
import pathlib
from collections.abc import Sequence

import torch

from modeling_anomalygpt import AnomalyGPTConfig, AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT
from recipes.tiny.mobilenet_teacher import load_mobilenet

LAYERS, POOLING = [4, 11], 3
NORMAL_DISTANCE = 0.4  # as for the embedded checkpoint, from good pictures of the train splits


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.teacher_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="MobileNetV2, safetensors")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the checkpoint")
    options = parser.parse_args(arguments)
    tower = load_mobilenet(options.weights)
    embedded = AnomalyGPTForConditionalGeneration.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
    changed = {"vision_config": tower.config.to_dict(), "out_indices": LAYERS, "reference_dims": None}
    changed |= {
        "reference_pooling": POOLING,
        "decision": embedded.config.decision | {"prior_normal_score": NORMAL_DISTANCE},
    }
    torch.manual_seed(0)
    model = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig(**(embedded.config.to_dict() | changed)))
    model.model.vision_tower.load_state_dict(tower.state_dict())
    for part in ("language_model", "prompt_learner", "multi_modal_projector"):
        getattr(model.model, part).load_state_dict(getattr(embedded.model, part).state_dict())
    model.generation_config = embedded.generation_config
    model.save_pretrained(options.output)
    processor = AnomalyGPTProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    processor.image_processor.image_mean = processor.image_processor.image_std = [0.5] * 3
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
