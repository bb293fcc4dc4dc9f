"""Trains the distilled vision model and its projections to compare: the few-shot map end to end.

    python -m recipes.tiny.comparing --vision DIR --pictures DIR --output DIR

Each picture of a pair (`view_pairs`) is compared with the good patches of the other one; distances must be small
where it is good and large at its anomalies. Batch norms keep their statistics. It may be stopped; the same command
goes on.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import AutoModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from recipes.tiny.distillation import PictureCache
from recipes.tiny.view_pairs import ViewPairs

PROJECTIONS, NOTES, STATE = "projections.safetensors", "distillation.json", "comparing_state.pt"
LIMITS = "limits"
SIZE, BATCH, STRIDE = 192, 8, 8
TEMPERATURE = 0.08
HARDEST = 0.05
BACKBONE_RATE, PROJECTION_RATE = 1.5e-4, 1e-3


class Comparer(nn.Module):
    """Vision model, projections and the distance at which a patch is as likely good as bad."""

    def __init__(self, vision: pathlib.Path):
        super().__init__()
        self.tower = AutoModel.from_pretrained(vision, dtype=torch.float32).to(memory_format=torch.channels_last)
        notes = json.loads((vision / NOTES).read_text())
        self.layers = sorted({pair[0] for pair in notes["layer_pairs"]})
        stored = load_file(vision / PROJECTIONS)
        self.reference_projections = nn.ModuleList()
        for index in range(len(self.layers)):
            weight = stored[f"reference_projections.{index}.weight"]
            self.reference_projections.append(nn.Linear(weight.shape[1], weight.shape[0]))
        self.reference_projections.load_state_dict(
            {key.removeprefix("reference_projections."): value for key, value in stored.items() if key != LIMITS}
        )
        known = stored.get(LIMITS, torch.full((len(self.layers) + 1,), 0.35))
        self.limits = nn.Parameter(known)

    def vectors(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Patches of each layer, `(batch, height * width, channels)`; images are uint8."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        pixel_values = ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states
        return [states[layer].float().flatten(2).transpose(1, 2) for layer in self.layers]

    def maps(self, vectors: list[torch.Tensor], masks: torch.Tensor) -> list[torch.Tensor]:
        """Distances `(pictures, grid, grid)` of every layer and of their mean; neighbours 2i and 2i + 1 are a pair."""
        grid = masks.shape[-1] // STRIDE
        other = torch.arange(len(masks)) ^ 1
        maps = []
        for project, vector in zip(self.reference_projections, vectors, strict=True):
            layer = functional.normalize(project(vector), dim=-1)
            side = math.isqrt(layer.shape[1])
            bad = functional.adaptive_max_pool2d(masks[:, None].float(), side).flatten(1) > 0
            cosine = layer @ layer[other].transpose(1, 2)
            cosine = cosine.masked_fill((bad & ~bad.all(1, keepdim=True))[other][:, None], -1)
            distance = (1 - cosine.amax(-1)).view(-1, 1, side, side)
            maps.append(functional.interpolate(distance, size=(grid, grid), mode="bilinear", align_corners=True)[:, 0])
        return [*maps, torch.stack(maps).mean(0)]

    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the part of (bad patch, hard good patch) pairs in the right order."""
        maps = self.maps(self.vectors(images), masks)
        covered = functional.adaptive_avg_pool2d(masks[:, None].float(), maps[0].shape[-1])
        bad = (covered > 0.4)[:, 0]
        good = functional.max_pool2d(covered, 3, 1, 1)[:, 0] == 0
        losses = []
        for distance, limit in zip(maps, self.limits, strict=True):
            logits = (distance - limit) / TEMPERATURE
            terms, ranks = [], []
            for row in range(len(images)):
                low = logits[row][good[row]]
                hard = low.topk(max(1, round(HARDEST * len(low)))).values if len(low) else low
                if len(low):
                    terms.append(functional.softplus(low).mean() + functional.softplus(hard).mean())
                high = logits[row][bad[row]]
                if len(high):
                    terms.append(functional.softplus(-high).mean())
                    if len(low):
                        terms.append(functional.softplus(hard[:, None] - high[None]).mean())
                        ranks.append((high[None] > hard[:, None]).float().mean())
            losses.append(torch.stack(terms).sum() / len(images))
        order = torch.stack(ranks).mean() if ranks else logits.new_tensor(0.5)
        return losses[-1] + 0.5 * torch.stack(losses[:-1]).mean(), order.detach()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.comparing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    vision = "folder of recipes.tiny.vision, or of this stage"
    parser.add_argument("--vision", type=pathlib.Path, required=True, help=vision)
    parser.add_argument("--pictures", type=pathlib.Path, required=True, help="folder of photographs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=1500, help=f"steps of {BATCH} pairs")
    parser.add_argument("--rate", type=float, default=1.0, help="factor for the learning rates")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    cache = options.vision / "pictures"
    files = [] if (cache / "index.npy").exists() else sorted(options.pictures.rglob("*.jpg"))
    pictures = PictureCache.build(files, cache)
    comparer = Comparer(options.vision).train()
    for module in comparer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    train(comparer, pictures, options)
    comparer.tower.save_pretrained(options.output)
    projections = comparer.reference_projections.state_dict(prefix="reference_projections.")
    projections[LIMITS] = comparer.limits.data
    save_file({key: value.contiguous() for key, value in projections.items()}, options.output / PROJECTIONS)
    shutil.copyfile(options.vision / NOTES, options.output / NOTES)


def train(comparer: Comparer, pictures: PictureCache, options: argparse.Namespace) -> None:
    """Trains all steps that the state in the output folder has not seen."""
    groups = [
        {"params": list(comparer.tower.parameters()), "peak": BACKBONE_RATE},
        {"params": [*comparer.reference_projections.parameters(), comparer.limits], "peak": PROJECTION_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    step, state_file = 0, options.output / STATE
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        comparer.load_state_dict(state["comparer"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    pairs = ViewPairs(pictures, options.steps * BATCH, SIZE, options.seed)
    rest = torch.utils.data.Subset(pairs, range(step * BATCH, len(pairs)))
    loader = torch.utils.data.DataLoader(rest, BATCH, num_workers=1, prefetch_factor=8)
    began, sums = time.monotonic(), torch.zeros(2)
    for images, masks in loader:
        rate = min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * options.rate * rate
        loss, order = comparer(images.flatten(0, 1), masks.flatten(0, 1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(comparer.parameters(), 5.0)
        optimizer.step()
        step += 1
        sums += torch.stack([loss.detach(), order])
        if step % 25 == 0:
            values = {name: round(value / 25, 4) for name, value in zip(("loss", "order"), sums.tolist(), strict=True)}
            print(json.dumps({"step": step, **values, "seconds": round(time.monotonic() - began, 1)}), flush=True)
            sums.zero_()
        if step % 100 == 0 or step == options.steps:
            state = {"comparer": comparer.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, state_file.with_suffix(".tmp"))
            os.replace(state_file.with_suffix(".tmp"), state_file)


if __name__ == "__main__":
    main()
