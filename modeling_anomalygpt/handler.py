"""Entry point of Hugging Face Inference Endpoints: pictures as base64 text in, JSON out.

Travels with a checkpoint as `handler.py`, where it is loaded by itself: it imports nothing of this package, but calls
the pipeline that lies beside it (https://huggingface.co/docs/inference-endpoints/guides/custom_handler).
"""

import base64
import binascii
import io
import threading
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from transformers import pipeline

MAX_REFERENCES = 64
MAX_BYTES = 32 * 1024 * 1024


class EndpointHandler:
    """Answers requests of the form

    ```json
    {"inputs": {"image": "<base64>", "references": ["<base64>"], "category": "bolt"}, "parameters": {"language": "zh"}}
    ```

    `inputs` may be the picture alone. Paths and addresses are refused: the endpoint opens only what was sent to it.

    Args:
        path (`str`, defaults to `""`): Folder of the checkpoint, as the endpoint gives it.
    """

    def __init__(self, path: str = ""):
        device = 0 if torch.cuda.is_available() else -1
        self.pipe = pipeline("anomaly-detection", model=path or ".", trust_remote_code=True, device=device)
        self.lock = threading.Lock()  # references belong to one request at a time

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Inspects one picture.

        Args:
            data (`dict`): `inputs`: base64 text of a picture, or a dictionary of `image`, `references` (a list) and
                options of the pipeline; `parameters` (`dict`, *optional*): further options.

        Returns:
            `dict`: The pipeline's result; `anomaly_map` and `mask` as base64 text of PNG pictures.

        Raises:
            ValueError: One line that says what is wrong with the request.
        """
        inputs = data.get("inputs")
        options = dict(data.get("parameters") or {})
        if isinstance(inputs, dict):
            options = inputs | options
            inputs = options.pop("image", None)
        picture = _picture(inputs, "image")
        # None: an empty list, so that what another request taught does not judge this one.
        references = _references(options.pop("references", None))
        with self.lock:
            found = self.pipe(picture, references=references, **options)
        return found | {name: _png(found[name]) for name in ("anomaly_map", "mask")}


def _references(references: Any) -> list[Image.Image]:
    references = [] if references is None else references
    if not isinstance(references, list) or len(references) > MAX_REFERENCES:
        raise ValueError(f"`references` must be a list of at most {MAX_REFERENCES} pictures as base64 text.")
    return [_picture(one, f"references[{index}]") for index, one in enumerate(references)]


def _picture(text: Any, name: str) -> Image.Image:
    if not isinstance(text, str) or not text:
        raise ValueError(f"`{name}` must be a picture as base64 text, got {type(text).__name__}.")
    encoded = text.split(",", 1)[1] if text.startswith("data:image/") and "," in text else text
    encoded = "".join(encoded.split())  # some programs wrap their lines
    if len(encoded) > MAX_BYTES * 4 // 3:
        raise ValueError(f"`{name}` must have at most {MAX_BYTES} bytes. Shrink it before.")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
        image.load()
    except (binascii.Error, UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"`{name}` must be a picture as base64 text, but it cannot be decoded.") from error
    return image


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


__all__ = ["MAX_BYTES", "MAX_REFERENCES", "EndpointHandler"]
