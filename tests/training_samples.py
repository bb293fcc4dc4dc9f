"""Samples that fit the smallest model: pictures with bright squares, an answer that depends on them."""

import hashlib

import numpy as np
import torch

from modeling_anomalygpt.training.collator import InspectionCollator


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
        turns = [{"role": "user", "content": "Anomaly?"}, {"role": "assistant", "content": answer}]
        reference = rng.normal(0, 0.3, (1, 3, 28, 28)).astype(np.float32) if index % 4 == 3 else None
        return self.processor.encode_conversation(turns) | {
            "pixel_values": picture,
            "mask_labels": None if index % 3 == 2 else mask,
            "map_size": self.map_size,
            "reference_pixel_values": reference,
            "use_reference": reference is not None,
            "image_id": f"square {index}",
        }


def collator(processor):
    return InspectionCollator(processor, num_references=1)
