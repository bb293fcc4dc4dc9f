"""Maps at ImageBind-Huge size with random weights, our way against the original's, in one process.

    python -m benchmarks.speed_original [--rounds 3] [--small]

The original's way is a second implementation from the facts of the published code (paper arXiv 2308.15366) on our
modules: for every picture it encodes the 24 state prompts, encodes the query twice (once for its global vector and the
text-guided map, once for the patches that are compared), encodes every reference again, and compares patches by a
broadcast cosine. The last line printed is the result as JSON. `--small` takes small towers, to try the script.
"""

import argparse
import json
from functools import partial

import torch
from torch.nn import functional

from benchmarks.gpu import TINY
from benchmarks.measuring import in_turns, ratio, summary
from benchmarks.speed_matching import broadcast_scores
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.localization import text_guided_layer_maps
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTModel
from modeling_anomalygpt.vision_features import read_vision_tower

NUM_PROMPTS, PROMPT_LENGTH = 24, 77


def build(small: bool) -> AnomalyGPTModel:
    """The published vision tower and localizer, ImageBind-Huge's text tower, a language model too small to matter."""
    width, depth, heads, joint = (32, 2, 2, TINY["projection_dim"]) if small else (1024, 24, 16, 1024)
    text_tower = {
        "model_type": "clip_text_model", "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": depth, "num_attention_heads": heads, "vocab_size": 49408,
        "max_position_embeddings": PROMPT_LENGTH, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip
    fields = TINY if small else {"text_config": TINY["text_config"]}
    return AnomalyGPTModel(
        AnomalyGPTConfig(**fields | {"text_tower_config": text_tower, "projection_dim": joint})
    ).eval()


def encoded(model: AnomalyGPTModel, pixel_values: torch.Tensor) -> tuple[PatchFeatures, ...]:
    """Raw patch features of one pass; the global vector is projected as well, as there."""
    pooled, layers = read_vision_tower(model.vision_tower, pixel_values, model.config.out_indices)
    functional.normalize(model.visual_projection(pooled), dim=-1)
    return layers


def zero_shot_map(
    model: AnomalyGPTModel, pixel_values: torch.Tensor, prompt_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Text-guided map `(1, map_size, map_size)`; the prompts `(1, num_prompts, length)` are encoded state by state."""
    states = []
    for state in (0, 1):
        pooled = model.text_projection(model.text_tower(prompt_ids[0][labels[0] == state]).pooler_output)
        states.append(functional.normalize(functional.normalize(pooled, dim=-1).mean(0), dim=-1))
    layers, config = encoded(model, pixel_values), model.config
    embedded = model.localizer.embed(layers)
    maps = text_guided_layer_maps(embedded, torch.stack(states).unsqueeze(0), config.map_temperature, config.map_size)
    return maps[:, :, 1].mean(1)


def few_shot_map(
    model: AnomalyGPTModel,
    pixel_values: torch.Tensor,
    references: torch.Tensor,
    prompt_ids: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Few-shot map `(1, map_size, map_size)`; the text-guided one is computed as well and then replaced."""
    zero_shot_map(model, pixel_values, prompt_ids, labels)
    maps = []
    for query, good in zip(encoded(model, pixel_values), encoded(model, references), strict=True):
        scores = (1 - broadcast_scores(query.vectors[0], good.vectors.flatten(0, 1))).view(1, 1, *query.grid)
        size = (model.config.map_size, model.config.map_size)
        maps.append(functional.interpolate(scores, size=size, mode="bilinear", align_corners=True)[:, 0])
    return torch.stack(maps).mean(0)


@torch.inference_mode()
def compare(rounds: int, small: bool) -> dict:
    """Times in turn, peak memory, and how far the two maps lie apart."""
    torch.manual_seed(0)
    model = build(small)
    query, reference = torch.randn(1, 3, 224, 224), torch.randn(1, 3, 224, 224)
    prompt_ids = torch.randint(1, 49000, (1, NUM_PROMPTS, PROMPT_LENGTH))
    prompt_ids[..., -1] = 49407
    labels = (torch.arange(NUM_PROMPTS) >= 14).long().unsqueeze(0)
    states = model.get_text_embeds(prompt_ids, labels)
    bank = MemoryBank.build(model.get_patch_features(reference))

    def ours_few_shot():
        return model.get_image_features(query, memory_bank=bank, return_dict=True).anomaly_map

    def ours_zero_shot():
        return model.get_image_features(query, text_embeds=states, return_dict=True).anomaly_map

    original_few_shot = partial(few_shot_map, model, query, reference, prompt_ids, labels)
    original_zero_shot = partial(zero_shot_map, model, query, prompt_ids, labels)
    apart = {
        "few_shot": (ours_few_shot() - original_few_shot()).abs().max().item(),
        "zero_shot": (ours_zero_shot() - original_zero_shot()).abs().max().item(),
    }
    calls = {
        "ours, few-shot": ours_few_shot, "original, few-shot": original_few_shot,
        "ours, zero-shot": ours_zero_shot, "original, zero-shot": original_zero_shot,
    }  # fmt: skip
    times = in_turns(calls, rounds, warm_up=0)
    return {
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
        "few_shot_ratio": ratio(times["original, few-shot"], times["ours, few-shot"]),
        "zero_shot_ratio": ratio(times["original, zero-shot"], times["ours, zero-shot"]),
        "largest_map_difference": {name: round(value, 7) for name, value in apart.items()},
        "times": {name: summary(values) for name, values in times.items()},
    }


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_original", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small towers, to try the script")
    options = parser.parse_args()
    print(json.dumps(compare(options.rounds, options.small)))


if __name__ == "__main__":
    main()
