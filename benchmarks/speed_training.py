"""What making defects on the fly costs a training, against the same defects made before and read from files.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_training

Both ways go through the same collator and the same training steps of the embedded checkpoint (forward, backward and
optimizer step of its localizer and prompt learner), in turn, block by block. All times are CPU time of one process
that makes its data itself (`time.process_time`), so that other programs on the machine hardly matter: the loss of
throughput, `1 - made before / on the fly`, is that of a training whose data and model share one core. Loader workers
on cores of their own take it away, as long as they make samples as fast as the device uses them up; how many a worker
makes in a second is said as well. The last line printed is the result as JSON.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import datasets
import numpy as np
import torch
from PIL import Image

from datasets_scripts import load_anomaly_dataset, schema_features
from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT
from modeling_anomalygpt.cli.made_pictures import METHODS, PHOTOGRAPH_DEFAULT
from modeling_anomalygpt.data.sources import LabelledPictures, SyntheticPairs
from modeling_anomalygpt.synthesis.synthesizer import Mixture, nsa
from modeling_anomalygpt.training.collator import InspectionCollator
from modeling_anomalygpt.training.data import TrainingExamples

MIXTURES = {"nsa": nsa, "mixed": Mixture([METHODS[name] for name in PHOTOGRAPH_DEFAULT])}


def made_before(pairs: SyntheticPairs, folder: pathlib.Path) -> datasets.Dataset:
    """The pairs of one epoch as PNG files with masks."""
    rows, normals = [], pairs.reference_rows.normals
    for row, image_id in enumerate(pairs.rows.image_ids):
        for version in range(2):
            rng = np.random.default_rng([row, version])
            example = pairs.example(pairs.rows[row], image_id, version, normals, rng)
            name = f"{row:04d}_{version}"
            example.picture.save(folder / f"{name}.png")
            mask = None
            if version:
                mask = str(folder / f"{name}_mask.png")
                Image.fromarray(example.mask).save(mask)
            known = {"category": example.category, "defect_type": example.defect_types[0], "image_id": name}
            known["image"], known["mask"] = str(folder / f"{name}.png"), mask
            rows.append(known | {"split": "train", "label": int(bool(example.anomalous))})
    return datasets.Dataset.from_list(rows, features=schema_features())


class Training:
    """Training steps on one kind of data, block by block."""

    def __init__(self, examples: TrainingExamples, processor: AnomalyGPTProcessor, batch_size: int):
        self.examples, self.batch_size, self.epoch = examples, batch_size, 0
        self.collate = InspectionCollator(processor)
        torch.manual_seed(0)
        self.model = AnomalyGPTForConditionalGeneration.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
        self.model.requires_grad_(False)
        trained = [self.model.model.localizer.layers, self.model.model.prompt_learner]
        parameters = [one.requires_grad_(True) for part in trained for one in part.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def block(self) -> tuple[float, float]:
        """CPU seconds of an epoch: of the data alone, and of everything."""
        self.examples.set_epoch(self.epoch)
        self.epoch += 1
        start, data = time.process_time(), 0.0
        for first in range(0, len(self.examples), self.batch_size):
            before = time.process_time()
            batch = self.collate([self.examples[index] for index in range(first, first + self.batch_size)])
            data += time.process_time() - before
            self.model(**batch).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return data, time.process_time() - start


def compared(
    name: str,
    parts: datasets.Dataset,
    processor: AnomalyGPTProcessor,
    folder: pathlib.Path,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Figures of one mixture."""
    folder.mkdir()
    pairs = SyntheticPairs(parts, "on the fly", mixture=MIXTURES[name])
    before = LabelledPictures(made_before(pairs, folder), "made before", references=parts)
    trainings = {}
    samples = options.steps * options.batch_size
    for kind, source in (("on_the_fly", pairs), ("made_before", before)):
        examples = TrainingExamples([source], processor, map_size=56, length=samples)
        trainings[kind] = Training(examples, processor, options.batch_size)
    times = {kind: [] for kind in trainings}
    for block in range(options.blocks + 1):
        for kind, training in trainings.items():
            taken = training.block()
            if block:  # the first warms up
                times[kind].append(taken)
    losses = [1 - old[1] / new[1] for old, new in zip(times["made_before"], times["on_the_fly"], strict=True)]
    data, whole = (
        {kind: 1000 * statistics.median(one[part] for one in rows) / samples for kind, rows in times.items()}
        for part in (0, 1)
    )
    loss = {"median": statistics.median(losses), "least": min(losses), "most": max(losses)}
    return {
        "data_ms_a_sample": {kind: round(value, 2) for kind, value in data.items()},
        "samples_a_second_and_worker": {kind: round(1000 / value) for kind, value in data.items()},
        "training_ms_a_sample": {kind: round(value, 2) for kind, value in whole.items()},
        "loss_of_throughput": {name: round(value, 4) for name, value in loss.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_training", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="side of the drawn pictures in pixels")
    parser.add_argument("--pictures", type=int, default=32, help="good pictures")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="training steps of a block")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of each kind, in turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    processor = AnomalyGPTProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        parts = load_anomaly_dataset(
            "rendered_parts",
            split="train",
            families=("gear", "leather", "screw", "pills"),
            num_train=max(2, options.pictures // 4),
            size=options.size,
            cache_dir=folder / "cache",
        )
        results = {name: compared(name, parts, processor, folder / name, options) for name in MIXTURES}
    print(json.dumps({"options": vars(options), **results}))


if __name__ == "__main__":
    main()
