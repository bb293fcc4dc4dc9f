"""Training that fits the smallest model: pictures with bright squares, an answer that depends on them.

`python -m tests.training.squares FOLDER MOMENT` trains in a process of its own. MOMENT is `never` (several numbers of
pictures, then a stream), or when the process kills itself without warning: `step` (between two checkpoints), `saving`
(in the middle of a checkpoint), `renaming` (the checkpoint is written, but not yet under its name).
"""

import hashlib
import json
import os
import pathlib
import signal
import sys

import numpy as np
import torch
from transformers import TrainingArguments

from modeling_anomalygpt.data.sources import SyntheticPairs
from modeling_anomalygpt.training.collator import InspectionCollator
from modeling_anomalygpt.training.data import StreamedExamples
from modeling_anomalygpt.training.trainer import AnomalyTrainer
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from tests.inspection_rows import inspection_rows, marking
from tests.tiny import tiny_pair

SETTINGS = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 5e-3, "logging_steps": 1,
    "save_steps": 2, "use_cpu": True, "report_to": [], "disable_tqdm": True, "train_sampling_strategy": "sequential",
    "max_grad_norm": 0.0,
}  # fmt: skip


class Squares(torch.utils.data.Dataset):
    """Noise with or without a bright square; a function of `(seed, epoch, index)`. Every third has no pixel target."""

    def __init__(self, processor, count=12, map_size=28, seed=0):
        self.processor, self.count, self.map_size, self.seed = processor, count, map_size, seed
        self.epoch, self.epochs = 0, []

    def __len__(self):
        return self.count

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs.append(epoch)

    @property
    def fingerprint(self):
        return hashlib.sha256(f"{self.count} {self.seed}".encode()).hexdigest()[:16]

    def training_data(self):
        labels = {"labels": "synthetic", "fingerprint": self.fingerprint}
        return {"datasets": [{"name": "squares", "split": "all", "num_rows": self.count} | labels]}

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        picture = rng.normal(0, 0.3, (3, 28, 28)).astype(np.float32)
        mask = np.zeros((self.map_size, self.map_size), np.int64)
        anomalous = index % 2
        if anomalous:
            picture[:, 8:16, 8:16] += 2
            mask[8:16, 8:16] = 1
        answer = "Yes, there is an anomaly." if anomalous else "No."
        messages = [{"role": "user", "content": "Anomaly?"}, {"role": "assistant", "content": answer}]
        reference = rng.normal(0, 0.3, (1, 3, 28, 28)).astype(np.float32) if index % 4 == 3 else None
        return self.processor.encode_conversation(messages) | {
            "pixel_values": picture,
            "mask_labels": None if index % 3 == 2 else mask,
            "map_size": self.map_size,
            "reference_pixel_values": reference,
            "use_reference": reference is not None,
            "image_id": f"square {index}",
        }


def trainer(folder, tuning="prompt", count=12, seed=0, recipe=None, pair=None, **options):
    model, processor = pair or tiny_pair()
    torch.manual_seed(1)
    model = prepare_for_tuning(model, TuningArguments(tuning=tuning, num_virtual_tokens=4))
    args = TrainingArguments(str(folder), **(SETTINGS | options))
    data = Squares(processor, count, seed=seed)
    return AnomalyTrainer(model, args, train_dataset=data, processing_class=processor, recipe=recipe)


def streamed(folder, **options):
    """A trainer of a stream, and the names of the rows that it has seen."""
    run, seen = trainer(folder, max_steps=4, save_strategy="no", **options), set()
    source = SyntheticPairs(inspection_rows(8).to_iterable_dataset(num_shards=4), "nuts", mixture=marking)
    data = StreamedExamples([source], run.processing_class, map_size=run.model.config.map_size)
    collate = InspectionCollator(run.processing_class)

    def collated(samples):
        seen.update(sample["image_id"].removesuffix(" (synthetic)") for sample in samples)
        return collate(samples)

    settings = {"train_dataset": data, "processing_class": run.processing_class, "data_collator": collated}
    return AnomalyTrainer(run.model, run.args, **settings), seen


def weights(model):
    return {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def train_all(folder: str) -> None:
    for count in (9, 10, 11, 12):
        place = f"{folder}/{count}"
        run = trainer(place, "lora", count, per_device_train_batch_size=2, ddp_find_unused_parameters=True)
        run.train()
        if run.is_world_process_zero():
            torch.save({"weights": weights(run.model), "log": run.state.log_history}, f"{place}/end.pt")
    epochs = list(dict.fromkeys(run.train_dataset.epochs))
    run, seen = streamed(f"{folder}/stream", ddp_find_unused_parameters=True)
    run.train()
    noticed = {"epochs": epochs, "rows": sorted(seen)}  # not printed: two processes print into each other's lines
    pathlib.Path(folder, f"noticed_{run.args.process_index}.json").write_text(json.dumps(noticed))


def main(folder: str, moment: str) -> None:
    if moment == "never":
        return train_all(folder)
    run = trainer(folder, "lora", ddp_find_unused_parameters=True)
    save, replace, training_step = torch.save, os.replace, run.training_step

    def maybe_die_saving(value, target, *args, **kwargs):
        if moment == "saving" and run.state.global_step == 4 and "scheduler" in str(target):
            die()
        return save(value, target, *args, **kwargs)

    def maybe_die_renaming(source, target):
        if moment == "renaming" and pathlib.Path(target).name == "checkpoint-4":
            die()
        replace(source, target)

    def maybe_die_stepping(*args, **kwargs):
        if moment == "step" and run.state.global_step == 4:
            die()
        return training_step(*args, **kwargs)

    torch.save, os.replace, run.training_step = maybe_die_saving, maybe_die_renaming, maybe_die_stepping
    run.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
