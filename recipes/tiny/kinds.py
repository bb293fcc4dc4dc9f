"""Teaches the embedded checkpoint what kind of defect it sees, on the CAD parts that are not held back.

    python -m recipes.tiny.kinds --checkpoint DIR --output DIR

Each picture with a defect gives what lies under its mask and under the region of the map that overlaps it most, beside
two good pictures of the part. A quarter of the kinds of parts at a time is left out to find how sure the head may be:
its log-odds are divided by a temperature there, and a kind is named from the probability on at which nine of ten names
that it gives to regions of those parts are right.
"""

import argparse
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from datasets_scripts import load_anomaly_dataset
from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor, AnomalyInspector
from modeling_anomalygpt.localization import DefectKindHead
from modeling_anomalygpt.regions import DEFECT_KINDS, core

WIDTH = 64
EPOCHS = 25
NOISE = 0.7  # added to the standardised features
FOLDS = 4
RIGHT = 0.9


class Defects:
    """What the head is told about regions with a known defect.

    Attributes:
        features (`torch.Tensor` of shape `(count, 2 * sum(dims))`): From [`ImageEncoder.defect_features`].
        kinds (`torch.Tensor` of shape `(count,)`): Indices into `DEFECT_KINDS`.
        part_kinds (`list[str]`): Kind of part of each.
        found (`torch.BoolTensor` of shape `(count,)`): Whether the map found the region; else it is the mask.
    """

    def __init__(self, inspector: AnomalyInspector, config_name: str):
        rows = []
        for category, references, defective in parts_of(config_name, 2, "good"):
            inspector.set_references(references, category=category)
            for row in defective:
                rows += [(*one, row["kind"], row["part_kind"]) for one in regions_of(inspector, row)]
        features, found, kinds, self.part_kinds = (list(column) for column in zip(*rows, strict=True))
        self.features, self.found = torch.stack(features), torch.tensor(found)
        self.kinds = torch.tensor([DEFECT_KINDS.index(kind) for kind in kinds])


def regions_of(inspector: AnomalyInspector, row: dict) -> list[tuple[torch.Tensor, bool]]:
    """Features of a picture's defect under its mask, and under the region of the map that overlaps it most, if any."""
    image, mask = row["image"].convert("RGB"), np.array(row["mask"].convert("L")) > 0
    seen = inspector.encoder.encode([image], inspector.references, inspector.category, "auto")[0]
    result = inspector.inspect(image, answer=False, use_language=False)
    cores = [core(region, result.anomaly_map) for region in result.regions]
    best = max(cores, key=lambda one: (one & mask).sum(), default=None)
    chosen = [(mask, False)] + ([(best, True)] if best is not None and (best & mask).any() else [])
    told = [
        (inspector.encoder.defect_features(seen.patches, inspector.references, one), found) for one, found in chosen
    ]
    return [(features, found) for features, found in told if features is not None]


def parts_of(
    config_name: str, count: int, left_out: str | None = None
) -> Iterator[tuple[str, list[Image.Image], list[dict]]]:
    """CAD parts with so many good pictures of each, drawn, and the rows of its test pictures, less those of a kind."""
    train, test = (load_anomaly_dataset("cad_parts", config_name=config_name, split=s) for s in ("train", "test"))
    good, shown = defaultdict(list), defaultdict(list)
    for found, rows in ((good, train), (shown, test)):
        for index, (category, kind) in enumerate(zip(rows["category"], rows["kind"], strict=True)):
            if rows is train or kind != left_out:
                found[category].append(index)
    rng = np.random.default_rng(0)
    for category in tqdm(sorted(shown), desc=f"parts, {config_name}"):
        references = [train[int(i)]["image"].convert("RGB") for i in rng.permutation(good[category])[:count]]
        yield category, references, [test[index] for index in shown[category]]


def trained(features: torch.Tensor, kinds: torch.Tensor, dims: list[int]) -> DefectKindHead:
    """A head that takes features as they are: their mean and deviation go into its first layer."""
    torch.manual_seed(0)
    mean, deviation = features.mean(0), features.std(0) + 1e-4
    standard = (features - mean) / deviation
    head = DefectKindHead(dims, WIDTH, len(DEFECT_KINDS))
    counts = torch.bincount(kinds, minlength=len(DEFECT_KINDS)).clamp_min(1)
    weights = (1 / counts / (1 / counts).mean()).sqrt()
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(standard)).split(128):
            told = standard[batch] + NOISE * torch.randn(len(batch), standard.shape[1])
            hidden = functional.gelu(head.hidden(functional.dropout(told, 0.3)))
            loss = functional.cross_entropy(head.kinds(functional.dropout(hidden, 0.3)), kinds[batch], weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        head.hidden.weight /= deviation
        head.hidden.bias -= head.hidden.weight @ mean
    return head.requires_grad_(False)


def left_out_log_odds(defects: Defects, dims: list[int]) -> torch.Tensor:
    """Log-odds `(count, num_kinds)` of heads that saw no part of the same kind."""
    names = sorted(set(defects.part_kinds))
    folds = torch.tensor([names.index(name) % FOLDS for name in defects.part_kinds])
    odds = torch.zeros(len(folds), len(DEFECT_KINDS))
    for fold in range(FOLDS):
        seen = folds != fold
        odds[~seen] = trained(defects.features[seen], defects.kinds[seen], dims)(defects.features[~seen])
    return odds


def temperature_of(odds: torch.Tensor, kinds: torch.Tensor) -> float:
    """By what log-odds must be divided so that the probabilities are as high as the names are often right."""
    tried = torch.linspace(0.5, 6, 111)
    return float(min(tried, key=lambda one: float(functional.cross_entropy(odds / one, kinds))))


def confidence_needed(probabilities: torch.Tensor, kinds: torch.Tensor, right: float = RIGHT) -> float:
    """The lowest probability from which on this share of the names is right; 1 where none suffices."""
    confidence, named = probabilities.max(1)
    order = confidence.argsort(descending=True)
    share = (named == kinds)[order].float().cumsum(0) / torch.arange(1, len(order) + 1)
    enough = (share >= right).nonzero()
    return float(confidence[order][int(enough.max())]) if len(enough) else 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.kinds", description=__doc__, formatter_class=plain)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the checkpoint with the head")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    processor = AnomalyGPTProcessor.from_pretrained(options.checkpoint)
    defects = Defects(AnomalyInspector(model, processor), "training")
    dims = [layer.in_features for layer in model.model.localizer.layers]
    odds = left_out_log_odds(defects, dims)[defects.found]
    kinds = defects.kinds[defects.found]
    temperature = temperature_of(odds, kinds)
    needed = confidence_needed((odds / temperature).softmax(1), kinds)
    named = (odds / temperature).softmax(1).amax(1) >= needed
    print(
        f"parts left out: {(odds.argmax(1) == kinds).float().mean():.3f} right of all; temperature {temperature:.2f}"
    )
    print(f"named from {needed:.3f} on: {named.float().mean():.3f} of the regions")
    head = trained(defects.features, defects.kinds, dims)
    head.kinds.weight /= temperature
    head.kinds.bias /= temperature
    model.config.kind_width = WIDTH
    model.config.decision = model.config.decision | {"kind_confidence": round(needed, 3)}
    model.model.kind_head = head
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
