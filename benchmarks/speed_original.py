"""Maps at ImageBind-Huge size with random weights, our way against the original's, in one process.

    python -m benchmarks.speed_original [--rounds 3] [--small]

The last line printed is the result as JSON. `--small` takes small towers, to try the script.
"""

import argparse
import json

import torch

from benchmarks.measuring import forget_peak, in_turns, peak_memory, ratio, summary
from benchmarks.original_way import few_shot_map, zero_shot_map
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTModel

NUM_PROMPTS, PROMPT_LENGTH = 24, 77


def build(small: bool) -> AnomalyGPTModel:
    """ImageBind-Huge's towers, the published localizer, and a language model too small to matter."""
    width, depth, heads, text_width, text_depth = (64, 4, 4, 32, 2) if small else (1280, 32, 16, 1024, 24)
    joint = 64 if small else 1024
    vision = {
        "model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": 224, "patch_size": 14,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    }  # fmt: skip
    text = {
        "model_type": "clip_text_model", "hidden_size": text_width, "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_depth, "num_attention_heads": heads, "vocab_size": 49408,
        "max_position_embeddings": PROMPT_LENGTH, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip
    language = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 512,
    }  # fmt: skip
    config = AnomalyGPTConfig(
        vision_config=vision,
        text_tower_config=text,
        text_config=language,
        projection_dim=joint,
        out_indices=[depth * part // 4 for part in (1, 2, 3, 4)],
        prompt_channels=[4, 8, 16, 32, 64],
        image_token_index=3,
    )
    return AnomalyGPTModel(config).eval()


@torch.inference_mode()
def compare(rounds: int, small: bool) -> dict:
    """Times in turn, peak memory, and how far the two maps lie apart."""
    torch.manual_seed(0)
    model = build(small)
    weights = peak_memory()
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

    apart = {
        "few_shot": (ours_few_shot() - few_shot_map(model, query, reference, prompt_ids, labels)).abs().max().item(),
        "zero_shot": (ours_zero_shot() - zero_shot_map(model, query, prompt_ids, labels)).abs().max().item(),
    }
    times = in_turns(
        {
            "ours, few-shot": ours_few_shot,
            "original, few-shot": lambda: few_shot_map(model, query, reference, prompt_ids, labels),
            "ours, zero-shot": ours_zero_shot,
            "original, zero-shot": lambda: zero_shot_map(model, query, prompt_ids, labels),
        },
        rounds,
        warm_up=0,
    )
    forget_peak()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_peak_bytes": weights,
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
