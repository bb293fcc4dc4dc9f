"""Teaches the localizer of the small model its two state vectors, for pictures without references.

    python -m recipes.tiny.localizer --checkpoint DIR --evidence FILE.npz ... --output DIR

Linear layers and state vectors only, on stored patch features, with the focal and dice losses of the paper.
"""

import argparse
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from tqdm import trange

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.localization import text_guided_layer_maps
from modeling_anomalygpt.memory_bank import PatchFeatures, unit_length
from modeling_anomalygpt.modeling_anomalygpt import pixel_losses
from recipes.tiny.evidence import read_evidence


def train(model, features: list[np.ndarray], masks: np.ndarray, epochs: int, seed: int) -> float:
    """Trains in place; returns the mean loss of the last epoch."""
    localizer, size = model.model.localizer, model.config.map_size
    trained = [localizer.state_embeds, *localizer.layers.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    steps = epochs * (len(masks) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    grids = [round(layer.shape[1] ** 0.5) for layer in features]
    losses = []
    for _ in trange(epochs, desc="localizer"):
        losses.clear()
        for batch in torch.randperm(len(masks), generator=generator).split(32)[: len(masks) // 32]:
            index = batch.numpy()
            layers = tuple(
                PatchFeatures(torch.from_numpy(layer[index].astype(np.float32)), (grid, grid))
                for layer, grid in zip(features, grids, strict=True)
            )
            states = unit_length(localizer.state_embeds).expand(len(index), -1, -1)
            maps = text_guided_layer_maps(localizer.embed(layers), states, model.config.map_temperature, size)
            loss = sum(pixel_losses(maps, torch.from_numpy(masks[index])).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return float(np.mean(losses))


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.tiny.localizer", description=__doc__, formatter_class=plain)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--evidence", type=pathlib.Path, nargs="+", required=True, help="seen pictures")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32)
    features, packed = read_evidence(options.evidence, len(model.config.out_indices))
    size = (model.config.map_size,) * 2
    masks = np.stack(
        [cv2.resize(np.unpackbits(one, axis=-1), size, interpolation=cv2.INTER_AREA) > 0 for one in packed]
    )
    loss = train(model, features, masks.astype(np.float32), options.epochs, options.seed)
    print(f"last epoch: focal + dice {loss:.4f}")
    model.save_pretrained(options.output)
    AnomalyGPTProcessor.from_pretrained(options.checkpoint).save_pretrained(options.output)


if __name__ == "__main__":
    main()
