"""Teaches the prompt learner to tell presence, places and number, before the language model listens to it.

    python -m recipes.tiny.prompts --checkpoint DIR --output DIR [--evidence FILE.npz ...] [--steps 1500]

The nine map prompts lie on the 3 x 3 grid of the answers' places. A linear head on each says whether its cell holds a
region, one on their mean how many regions there are. The heads are no part of the model: they are kept beside it
(`heads.safetensors`) and go on teaching the prompt learner while the language model learns.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from tqdm import trange

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.conversations.facts import Facts
from recipes.tiny.drawn_evidence import draw_evidence
from recipes.tiny.evidence import EvidenceFiles

MOST = 4  # number of regions that is told apart; more count as this


HEADS_FILE = "heads.safetensors"


class MapHeads(nn.Module):
    """Reads places and number from map prompts `(batch_size, 9, width)`."""

    def __init__(self, width: int):
        super().__init__()
        self.place, self.number = nn.Linear(width, 1), nn.Linear(width, MOST + 1)

    @classmethod
    def load(cls, folder: pathlib.Path, width: int) -> "MapHeads | None":
        """The heads kept in a folder, frozen; `None` where there are none."""
        if not (folder / HEADS_FILE).exists():
            return None
        heads = cls(width).requires_grad_(False)
        heads.load_state_dict(load_file(folder / HEADS_FILE))
        return heads

    def loss(
        self, prompts: torch.Tensor, held: torch.Tensor, count: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss against the cells `(batch_size, 9)` and numbers `(batch_size,)` of regions; logits of the numbers."""
        placed, counted = self.place(prompts).squeeze(-1), self.number(prompts.mean(1))
        loss = functional.binary_cross_entropy_with_logits(placed, held) + functional.cross_entropy(counted, count)
        # The language model expects vectors of about the length of its token embeddings.
        return loss + 0.01 * (prompts.square().mean() - 0.1).square(), counted


class Maps(torch.utils.data.Dataset):
    """Endless maps with the cells and the number of their regions; sample `index` is the same in every run."""

    def __init__(self, length: int, map_size: int, seed: int, evidence: EvidenceFiles | None, seen_share: float):
        self.length, self.map_size, self.seed = length, map_size, seed
        self.evidence, self.seen_share = evidence, seen_share if evidence is not None else 0.0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        rng = np.random.default_rng([self.seed, 11, index])
        if rng.random() < self.seen_share:
            _, anomaly_map, facts = self.evidence.draw(rng)
        else:
            anomaly_map, facts = draw_evidence(rng, self.map_size)
        return anomaly_map, *targets(facts)


def targets(facts: Facts) -> tuple[np.ndarray, int]:
    """Which of the nine places hold a region, `(9,)`, rows first, and the number of regions, at most `MOST`."""
    held = np.zeros(9, np.float32)
    for region in facts.regions:
        held[3 * region.row + region.column] = 1
    return held, min(len(facts.regions), MOST)


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.tiny.prompts", description=__doc__, formatter_class=plain)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--evidence", type=pathlib.Path, nargs="+", help="files of recipes.tiny.evidence")
    parser.add_argument("--seen-share", type=float, default=0.75)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32)
    learner, width = model.model.prompt_learner, model.config.text_config.hidden_size
    heads = MapHeads(width)
    trained = [*learner.convolutions.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=options.steps)
    evidence = EvidenceFiles(options.evidence) if options.evidence else None
    length = options.steps * options.batch_size
    maps = Maps(length, model.config.map_size, options.seed, evidence, options.seen_share)
    batches = iter(torch.utils.data.DataLoader(maps, options.batch_size, num_workers=1))
    right = []
    for step in (bar := trange(options.steps, desc="prompts")):
        anomaly_map, held, count = next(batches)
        prompts = learner(anomaly_map)[:, model.config.num_base_prompts :]
        loss, counted = heads.loss(prompts, held, count)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append(((counted.argmax(1) > 0) == (count > 0)).float().mean().item())
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.3f}", yes_no=f"{np.mean(right[-50:]):.3f}")
    print(f"yes or no right in the last 100 steps: {np.mean(right[-100:]):.3f}")
    model.save_pretrained(options.output)
    save_file(heads.state_dict(), options.output / HEADS_FILE)
    AnomalyGPTProcessor.from_pretrained(options.checkpoint).save_pretrained(options.output)


if __name__ == "__main__":
    main()
