"""The transformers pipeline "anomaly-detection": pictures in; out come dictionaries for JSON and pictures of the map.

It is a thin layer over [`AnomalyInspector`], so its verdicts are the inspector's; it travels with the checkpoint.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoModelForImageTextToText, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .images import flatten_pictures, load_picture
from .inspector import AnomalyInspector

TASK = "anomaly-detection"

_REFERENCE_OPTIONS = ("rotations", "max_patches")
_INSPECTION_OPTIONS = (
    "question", "language", "category", "description", "localization", "answer", "use_language", "mm_per_pixel",
)  # fmt: skip


class AnomalyDetectionPipeline(Pipeline):
    """Inspects pictures: verdict, score, regions, answer and a map of where.

    Options may be given to `pipeline(...)`, for all calls, or to a call. Pictures are paths, PIL pictures, arrays,
    http(s) addresses or base64 text.

    Args:
        references (`list`, *optional*): Good pictures of the same part. They are looked at once and remembered until
            others are given; an empty list forgets them.
        rotations (`bool`), max_patches (`int`), *optional*:
            See [`AnomalyInspector.set_references`].
        category (`str`), description (`str`), question (`str`), language (`str`), localization (`str`),
        answer (`bool`), use_language (`bool`), mm_per_pixel (`float`), *optional*:
            See [`AnomalyInspector.inspect_many`].

    Example:
    ```python
    pipe = pipeline("anomaly-detection", model="user/model", trust_remote_code=True)
    found = pipe("query.png", references=["good_1.png", "good_2.png"], category="bolt")
    found["verdict"], found["answer"], found["regions"]
    found["anomaly_map"].save("map.png")
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.inspector = AnomalyInspector(self.model.eval(), self.processor)
        self._known: tuple[list[Any], dict[str, Any]] = ([], {})  # what the references are, how they were learned

    def __call__(self, images: Any, **kwargs: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Inspects one picture or a list of them.

        Args:
            images (picture or `list`): What to inspect.
            kwargs: Options of the class for this call; `batch_size` (`int`): pictures that go through the model
                together.

        Returns:
            `dict`, or a list of them: `verdict`, `pred_score`, `log_odds`, `answer`, `regions`, `evidence` and the
            other fields of [`InspectionResult.to_dict`]; `anomaly_map` (`PIL.Image.Image`, grey, 0 to 255 for 0 to 1,
            in the picture's own pixels) and `mask` (the same, 255 inside the regions' threshold).

        Raises:
            ValueError: If a picture cannot be used **or** an option is unknown.
        """
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        known = ("references", *_REFERENCE_OPTIONS, *_INSPECTION_OPTIONS)
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"Options must be among {', '.join(known)}, got {', '.join(unknown)}.")
        return {}, options, {}

    def preprocess(self, picture: Any) -> dict[str, Any]:
        """Opens a picture; keeps its path for the result."""
        is_name = isinstance(picture, str | os.PathLike) and not str(picture).startswith("data:")
        name = os.fspath(picture) if is_name else None
        return {"picture": self._open(picture), "name": name}

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, list]:
        batched = isinstance(inputs["picture"], list)
        pictures = inputs["picture"] if batched else [inputs["picture"]]
        names = inputs["name"] if batched else [inputs["name"]]
        references = options.pop("references", None)
        learning = {name: options.pop(name) for name in _REFERENCE_OPTIONS if name in options}
        if references is not None:
            self._remember(flatten_pictures(references), learning)
        results = list(self.inspector.inspect_many(pictures, batch_size=len(pictures), progress=False, **options))
        for result, name in zip(results, names, strict=True):
            result.image = name
        return {"result": results} if batched else {"result": results[0]}

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The result as a dictionary, the map as pictures."""
        result = outputs["result"]
        row = result.to_dict()
        if result.anomaly_map is None:
            raise ValueError(row["error"])
        threshold = row["evidence"]["region_threshold"]  # of the kind of map that was asked for
        row["anomaly_map"] = Image.fromarray(np.round(result.anomaly_map * 255).astype(np.uint8))
        row["mask"] = Image.fromarray(np.where(result.anomaly_map >= threshold, 255, 0).astype(np.uint8))
        return row

    def _remember(self, references: Sequence[Any], learning: dict[str, Any]) -> None:
        """Looks at good pictures, unless they are those of the last call, unchanged."""
        known = ([_identity(one) for one in references], learning)
        if known == self._known:
            return
        self.inspector = AnomalyInspector(self.model, self.processor)
        if references:
            self.inspector.set_references([self._open(one) for one in references], **learning)
        self._known = known

    def _open(self, picture: Any) -> Image.Image:
        return load_picture(self.processor.image_processor.fetch_images(picture))


def _identity(picture: Any) -> tuple[str, ...]:
    """What tells whether a picture is the same as before: a file's name, time and size, else its pixels."""
    if not isinstance(picture, str | os.PathLike):
        pixels = np.asarray(picture)
        return str(pixels.shape), str(pixels.dtype), hashlib.sha256(pixels.tobytes()).hexdigest()
    try:
        found = os.stat(picture)
    except (OSError, ValueError):  # an address, base64 text, or what will be refused
        return (os.fspath(picture),)
    return os.fspath(picture), str(found.st_mtime_ns), str(found.st_size)


def register_pipeline() -> None:
    """Lets `pipeline("anomaly-detection", model=...)` find this class in this process, without custom code."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=AnomalyDetectionPipeline, pt_model=AutoModelForImageTextToText, type="multimodal"
        )


__all__ = ["TASK", "AnomalyDetectionPipeline", "register_pipeline"]
