"""Entry point of Hugging Face Inference Endpoints: pictures as base64 text in, JSON out.

Travels with a checkpoint as `handler.py`, where it is loaded by itself: it imports nothing of this package, but calls
the pipeline that lies beside it (https://huggingface.co/docs/inference-endpoints/guides/custom_handler).
"""

import base64
import io
import threading
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from transformers import pipeline

# What one request may take: good pictures, bytes and pixels of all its pictures together, letters of a text.
MAX_REFERENCES = 64
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 100_000_000
MAX_LETTERS = 2000


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
            data (`dict`): `inputs`: base64 text of a picture, or a dictionary of `image`, `references` (a list), `roi`
                (a mask) and options of the pipeline; `parameters` (`dict`, *optional*): further options.

        Returns:
            `dict`: The pipeline's result; `anomaly_map` and `mask` as base64 text of PNG pictures.

        Raises:
            ValueError: One line that says what is wrong with the request.
        """
        if not isinstance(data, dict) or not isinstance(data.get("parameters") or {}, dict):
            raise ValueError(
                "A request must be an object of `inputs` and, if wanted, `parameters`, an object as well."
            )
        inputs, options = data.get("inputs"), dict(data.get("parameters") or {})
        if isinstance(inputs, dict):
            options = inputs | options
            inputs = options.pop("image", None)
        # None: an empty list, so that what another request taught does not judge this one.
        roi = options.pop("roi", None)
        picture, *references = _pictures(inputs, options.pop("references", None) or [], roi)
        _check_options(options)
        if roi is not None:
            options["roi"] = references.pop()
        with self.lock:
            found = self.pipe(picture, references=references, **options)
        return found | {name: _png(found[name]) for name in ("anomaly_map", "mask")}


def _pictures(image: Any, references: Any, roi: Any) -> list[bytes]:
    """The files of picture, good ones and region of interest, decoded only when all together are within the limits."""
    if not isinstance(references, list) or len(references) > MAX_REFERENCES:
        got = len(references) if isinstance(references, list) else type(references).__name__
        raise ValueError(
            f"`references` must be a list of at most {MAX_REFERENCES} pictures as base64 text, got {got}. Send such."
        )
    named = [("image", image), *((f"references[{index}]", one) for index, one in enumerate(references))]
    named += [] if roi is None else [("roi", roi)]
    size = sum(len(text) for _, text in named if isinstance(text, str)) * 3 // 4
    if size > MAX_BYTES:
        raise ValueError(
            f"All pictures of a request must have at most {MAX_BYTES} bytes, got {size}. Shrink them before."
        )
    files = [_file(text, name) for name, text in named]
    total = sum(pixels for _, pixels in files)
    if total > MAX_PIXELS:
        raise ValueError(
            f"All pictures of a request must have at most {MAX_PIXELS} pixels, got {total}. Shrink them before."
        )
    return [file for file, _ in files]


def _file(text: Any, name: str) -> tuple[bytes, int]:
    """A picture's file and, from its header, the number of its pixels."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"`{name}` must be a picture as base64 text, got {type(text).__name__}. Encode the file.")
    encoded = text.split(",", 1)[1] if text.startswith("data:image/") and "," in text else text
    try:  # some programs wrap their lines
        file = base64.b64decode("".join(encoded.split()), validate=True)
        with Image.open(io.BytesIO(file)) as image:
            return file, image.width * image.height
    except (ValueError, UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(
            f"`{name}` must be a picture as base64 text, got one that cannot be decoded. Encode the whole file."
        ) from error


def _check_options(options: dict[str, Any]) -> None:
    """Refuses what would take the machine: the pipeline's own options of processes, and texts without end."""
    for name, value in options.items():
        if name in ("batch_size", "num_workers", "images", "self") or not isinstance(name, str):
            raise ValueError(f"`{name}` must be left out: a request has one picture.")
        if not isinstance(value, str | int | float | None):
            raise ValueError(
                f"`{name}` must be a text, a number, true or false, got {type(value).__name__}. Leave it out."
            )
        if isinstance(value, str) and len(value) > MAX_LETTERS:
            raise ValueError(f"`{name}` must have at most {MAX_LETTERS} letters, got {len(value)}. Shorten it.")


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
