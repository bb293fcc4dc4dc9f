"""The transformers pipeline "anomaly-detection": pictures in; out come dictionaries for JSON and pictures of the map.

It is a thin layer over [`AnomalyInspector`], so its verdicts are the inspector's; it travels with the checkpoint.
"""

import hashlib
import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .images import flatten_pictures, load_picture
from .inspector import AnomalyInspector, InspectionOptions
from .results import source_of

TASK = "anomaly-detection"

_REFERENCE_OPTIONS = ("rotations", "max_patches", "roi", "align", "presence")


class AnomalyDetectionPipeline(Pipeline):
    """Inspects pictures: verdict, score, regions, answer and a map of where.

    Options may be given to `pipeline(...)`, for all calls, or to a call. Pictures are paths, PIL pictures, arrays,
    http(s) addresses or base64 text.

    Args:
        references (`list`, *optional*): Good pictures of the same part. They are looked at once and remembered until
            others are given; an empty list forgets them.
        rotations (`bool`), max_patches (`int`), roi (a mask), align (`bool`), presence (`bool`), *optional*:
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
        if self.device.type == "cpu" and self.model.dtype == torch.float16:  # half precision takes minutes a picture
            self.model.float()
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
        known = ("references", *_REFERENCE_OPTIONS, *InspectionOptions.__dataclass_fields__)
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(
                f"Options must be among {', '.join(known)}, got {', '.join(unknown)}. Correct the spelling."
            )
        taught = {name: value for name, value in options.items() if name in ("references", *_REFERENCE_OPTIONS)}
        return taught, options, {}

    def preprocess(self, picture: Any, **taught: Any) -> dict[str, Any]:
        """Opens a picture in the depth that the references have; keeps its path for the result."""
        self._remember(**taught)
        is_name = isinstance(picture, str | os.PathLike) and not str(picture).startswith("data:")
        name = os.fspath(picture) if is_name else None
        fetched = self.processor.image_processor.fetch_images(picture)
        return {"picture": load_picture(fetched, self.inspector.bits), "name": name}

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, list]:
        batched = isinstance(inputs["picture"], list)
        pictures = inputs["picture"] if batched else [inputs["picture"]]
        names = inputs["name"] if batched else [inputs["name"]]
        self._remember(**{name: options.pop(name) for name in ("references", *_REFERENCE_OPTIONS) if name in options})
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

    def _remember(self, references: Any = None, **learning: Any) -> None:
        """Looks at good pictures, unless they are those of the last call, unchanged."""
        if references is None:
            return
        pictures = flatten_pictures(references)
        region = learning.get("roi")
        known = ([_identity(one) for one in pictures], learning | {"roi": region is not None and _identity(region)})
        if known == self._known:
            return
        inspector = AnomalyInspector(self.model, self.processor)
        if pictures:
            fetch = self.processor.image_processor.fetch_images
            inspector.set_references([fetch(one) for one in pictures], **learning)
        self.inspector, self._known = inspector, known  # together: a picture that is refused changes neither


def _identity(picture: Any) -> tuple[Any, ...]:
    """What tells whether a picture is the same as before: a file's name, size and times, else its content."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture), source_of(picture)
    values = np.asarray(picture)
    return values.shape, str(values.dtype), hashlib.sha256(values.tobytes()).hexdigest()


def register_pipeline() -> None:
    """Lets `pipeline("anomaly-detection", model=...)` find this class in this process, without custom code."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=AnomalyDetectionPipeline, pt_model=AutoModelForImageTextToText, type="multimodal"
        )


__all__ = ["TASK", "AnomalyDetectionPipeline", "register_pipeline"]
