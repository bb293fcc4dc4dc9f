"""Makes the vision model of the embedded checkpoint: `python -m recipes.tiny.vision --help`."""

import argparse
import json
import pathlib
import time

import torch
from transformers import AutoConfig, AutoModel

from recipes.tiny.distillation import DistillationArguments, PictureCache, distill

from .mobilenet_teacher import load_mobilenet

HERE = pathlib.Path(__file__).parent


def untrained_student(seed: int) -> torch.nn.Module:
    """The student of `vision_student.json` with random weights."""
    torch.manual_seed(seed)
    values = json.loads((HERE / "vision_student.json").read_text(encoding="utf-8"))
    return AutoModel.from_config(AutoConfig.for_model(**values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", required=True, help="folder of photographs, searched with its subfolders")
    parser.add_argument("--teacher", required=True, help="safetensors file of MobileNetV2 with torchvision's names")
    parser.add_argument("--output", required=True, help="folder for the model and the resumable state")
    parser.add_argument("--threads", type=int, default=2, help="threads of the processor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = sorted(pathlib.Path(options.pictures).rglob("*.jpg"))
    images = PictureCache.build(files, pathlib.Path(options.output) / "pictures")
    arguments = DistillationArguments.from_json(HERE / "vision_distillation.json")
    start = time.monotonic()

    def log(values: dict[str, float]) -> None:
        rounded = {name: round(value, 5) for name, value in values.items()}
        print(json.dumps({**rounded, "seconds": round(time.monotonic() - start, 1)}), flush=True)

    student = untrained_student(arguments.seed)
    distill(load_mobilenet(options.teacher), student, images, arguments, options.output, on_log=log)


if __name__ == "__main__":
    main()
