"""One method of `benchmarks.peers` in a process of its own, with the Python of our environment or of anomalib's.

    python benchmarks/peers_worker.py anomalygpt|patchcore|engine|efficient_ad|torch

Reads lines of JSON, `["learn", [paths]]`, calls that method and answers each with a line: seconds by the clock and of
processor time, processor time since the process began, what was returned, the peak of its memory. Nothing is imported
before `open` or `load`, and then only what the method needs.
"""

import json
import os
import pathlib
import re
import sys
import time
from typing import Any

BATCH = 8


class AnomalyGPT:
    """Ours: the embedded checkpoint, float32."""

    def open(self) -> None:
        """Imports and loads what is needed before anything is known of a part."""
        from modeling_anomalygpt import AnomalyInspector

        self.inspector = AnomalyInspector.from_pretrained()

    def learn(self, good: list[str]) -> None:
        """Takes good pictures."""
        self.inspector.set_references(good, category="capsules")

    def save(self, file: str) -> None:
        """Keeps what was learned."""
        self.inspector.save_references(file)

    def load(self, file: str) -> None:
        """Takes what was learned earlier, in a new process."""
        self.open()
        self.inspector.load_references(file)

    def verdict(self, picture: str) -> list[float]:
        """All that a user is told of a picture: score, map, yes or no in words."""
        return self._told(self.inspector.inspect(picture))

    def score(self, picture: str) -> list[float]:
        """Score and map alone: what the peers give."""
        return self._told(self.inspector.inspect(picture, use_language=False))

    def many(self, pictures: list[str]) -> list[float]:
        """Scores of many pictures, in order."""
        stream = self.inspector.inspect_many(pictures, batch_size=BATCH, progress=False, use_language=False)
        return [result.pred_score for result in stream]

    @staticmethod
    def _told(result: Any) -> list[float]:
        return [result.pred_score, float(result.anomaly_map.max())]


class PatchCore:
    """anomalib's PatchCore driven by hand: no trainer, no checkpoint, no validation. The least time it can take."""

    def open(self) -> None:
        """Imports and builds the network."""
        from anomalib.models import Patchcore

        self.model = Patchcore(backbone="resnet18", pre_trained=False, evaluator=False, visualizer=False)

    def learn(self, good: list[str]) -> None:
        """Features of the good pictures and their coreset, with anomalib's own settings."""
        import torch
        from anomalib.data.utils import read_image

        inner = self.model.model
        inner.memory_bank = torch.empty(0)
        inner.train()
        inner.feature_extractor.eval()
        inner(torch.stack([self.model.pre_processor(read_image(file, as_tensor=True)) for file in good]))
        self.model.fit()
        self.model.eval()

    def save(self, file: str) -> None:
        """Exports for the inferencer below."""
        import torch

        torch.save({"model": self.model}, file)

    def load(self, file: str) -> None:
        """Takes the exported model as anomalib's deployment does."""
        from anomalib.deploy import TorchInferencer

        self.model = TorchInferencer(file, device="cpu").model

    def verdict(self, picture: str) -> list[float]:
        """Score and map of one picture."""
        return self._forward([picture])[0]

    score = verdict

    def many(self, pictures: list[str]) -> list[float]:
        """Scores of many pictures, in order."""
        batches = (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
        return [score for batch in batches for score, _ in self._forward(batch)]

    def _forward(self, pictures: list[str]) -> list[list[float]]:
        import torch
        from anomalib.data.utils import read_image

        with torch.inference_mode():
            found = self.model(torch.stack([read_image(file, as_tensor=True) for file in pictures]))
        tops = found.anomaly_map.flatten(1).amax(1)
        return [[float(score), float(top)] for score, top in zip(found.pred_score.flatten(), tops, strict=True)]


class Engine(PatchCore):
    """The same by anomalib's documented way: `Engine.fit` and `Engine.predict` on folders."""

    checkpoint: str | None = None

    def open(self) -> None:
        """Imports, builds the network and the engine."""
        from anomalib.engine import Engine as AnomalibEngine
        from anomalib.models import Patchcore

        self.model = Patchcore(backbone="resnet18", pre_trained=False)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        self.engine = AnomalibEngine(accelerator="cpu", limit_val_batches=0, default_root_dir="run", **quiet)

    def learn(self, good: list[str]) -> None:
        """The pictures' folder as a data module; a model learns once."""
        from anomalib.data import Folder

        if len(self.model.model.memory_bank):
            self.open()
        folder, kept = pathlib.Path(good[0]).parent, {"test_split_mode": "none", "val_split_mode": "none"}
        data = Folder("capsules", root=folder.parent, normal_dir=folder.name, num_workers=0, **kept)
        self.engine.fit(model=self.model, datamodule=data)

    def save(self, file: str) -> None:
        """Lightning's checkpoint."""
        self.engine.trainer.save_checkpoint(file)

    def load(self, file: str) -> None:
        """The checkpoint is read by the first prediction."""
        self.open()
        self.checkpoint = file

    def verdict(self, picture: str) -> list[float]:
        """Score and map of one picture."""
        return self._predict(picture)[0]

    score = verdict

    def many(self, pictures: list[str]) -> list[float]:
        """Scores of a folder's pictures."""
        return [score for score, _ in self._predict(str(pathlib.Path(pictures[0]).parent))]

    def _predict(self, path: str) -> list[list[float]]:
        from anomalib.data import PredictDataset

        checkpoint, self.checkpoint = self.checkpoint, None
        batches = self.engine.predict(model=self.model, dataset=PredictDataset(path=path), ckpt_path=checkpoint)
        return [[float(one.pred_score), float(one.anomaly_map.max())] for batch in batches for one in batch]


class EfficientAd(PatchCore):
    """anomalib's EfficientAD, small: judges only; it learns for hours, from downloads."""

    def open(self) -> None:
        """Imports and builds the networks."""
        from anomalib.models import EfficientAd as Model

        self.model = Model(evaluator=False, visualizer=False).eval()

    def learn(self, good: list[str]) -> None:
        """Nothing: the networks stay random."""


class Torch:
    """torch alone, of the same environment: what every method pays."""

    def open(self) -> None:
        """Imports it."""
        import torch  # noqa: F401


METHODS = {
    "anomalygpt": AnomalyGPT,
    "patchcore": PatchCore,
    "engine": Engine,
    "efficient_ad": EfficientAd,
    "torch": Torch,
}


def peak_bytes() -> int:
    """What this process held at most (Linux)."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print is no answer
    method = METHODS[sys.argv[1]]()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        start, processor_start = time.perf_counter(), time.process_time()
        value = getattr(method, name)(*arguments)
        row = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - processor_start,
            "processor_seconds_since_start": time.process_time(),
            "value": value,
            "peak_bytes": peak_bytes(),
        }
        print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
    main()
