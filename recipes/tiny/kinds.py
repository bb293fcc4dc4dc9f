"""Teaches the prompt learner to tell kinds of defects from what a picture is like where its map is highest.

    python -m recipes.tiny.kinds --checkpoint DIR --heads DIR --evidence FILE.npz [...] --output DIR [--steps 600]

What the map says is learned already and stays (`recipes.tiny.prompts`); the projection of the features by cell is
trained with a linear head on the mean of the prompts of all places that hold a region. The head is kept with the
others and goes on teaching while the language model learns, which alone hardly finds the kind among all else.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import trange

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from recipes.tiny.evidence import EvidenceFiles
from recipes.tiny.prompts import HEADS_FILE, MapHeads, targets

DROPOUT, BATCH, KEPT_BACK = 0.2, 256, 10  # one in ten rows, from the end: of products that are not trained on


@torch.no_grad()
def samples(evidence: EvidenceFiles, learner: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Prompts of the map, features by cell, cells that hold a region and kinds of all rows with one kind of defect."""
    rows = []
    for index in range(len(evidence)):
        if len(evidence.facts[index]["defect_types"]) == 1:
            facts = evidence.facts_of(index)
            held, _, kind = targets(facts)
            if kind >= 0:
                rows.append((evidence.maps[index].astype(np.float32), evidence.cells[index], held, kind))
    maps, cells, held, kinds = zip(*rows, strict=True)
    parts = torch.from_numpy(np.stack(maps)).split(BATCH)
    prompts = torch.cat([learner(part)[:, len(learner.base_prompts) :] for part in parts])
    return prompts, *(torch.from_numpy(np.stack(part)) for part in (cells, held)), torch.tensor(kinds)


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.tiny.kinds", description=__doc__, formatter_class=plain)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--heads", type=pathlib.Path, required=True, help="folder of recipes.tiny.prompts")
    parser.add_argument("--evidence", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=600, help=f"steps of {BATCH} pictures")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32)
    learner = model.model.prompt_learner
    heads = MapHeads.load(options.heads, model.config.text_config.hidden_size)
    prompts, cells, held, kinds = samples(EvidenceFiles(options.evidence), learner)
    trained = len(kinds) - len(kinds) // KEPT_BACK
    parameters = [*learner.cell_projection.parameters(), *heads.kind.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.05)

    def told(rows: torch.Tensor, dropout: float) -> torch.Tensor:
        features = functional.dropout(cells[rows].float(), dropout, training=dropout > 0)
        return heads.kinds(prompts[rows] + learner.cell_projection(features), held[rows])

    for step in (bar := trange(options.steps, desc="kinds")):
        rows = torch.randint(trained, (BATCH,))
        loss = functional.cross_entropy(told(rows, DROPOUT), kinds[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    with torch.no_grad():
        for name, rows in (("trained on", torch.arange(trained)), ("kept back", torch.arange(trained, len(kinds)))):
            right = torch.cat([told(part, 0.0).argmax(1) for part in rows.split(BATCH)]) == kinds[rows]
            print(f"kinds right on {len(rows)} pictures {name}: {right.float().mean():.3f}")
    model.save_pretrained(options.output)
    save_file(heads.state_dict(), options.output / HEADS_FILE)
    AnomalyGPTProcessor.from_pretrained(options.checkpoint).save_pretrained(options.output)


if __name__ == "__main__":
    main()
