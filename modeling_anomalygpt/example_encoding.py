"""An example through the processor: one sample, not yet padded.

Knows the processor and tensors' shapes; knows no data set and no weights.
"""

from typing import Any

import numpy as np
from PIL import Image

from .processing_anomalygpt import AnomalyGPTProcessor
from .training_facts import seen_part
from .training_sources import Example


class ExampleEncoder:
    """Turns an example and a conversation about it into arrays.

    Args:
        processor (`AnomalyGPTProcessor`):
            Its image processor gives picture, mask and references the same geometry.
        map_size (`int`, *optional*):
            Side of the pixel target, in pixels: `config.map_size` of the model. Defaults to the pictures' height.
        max_length (`int`, *optional*, defaults to 1024):
            Conversations are cut after so many tokens, as published.

    Raises:
        ValueError: If `map_size` or `max_length` is not positive.
    """

    def __init__(self, processor: AnomalyGPTProcessor, map_size: int | None = None, max_length: int = 1024):
        size = processor.image_processor.size
        self.processor = processor
        self.canvas_size = (size["height"], size["width"])
        self.map_size = size["height"] if map_size is None else map_size
        self.max_length = max_length
        for name in ("map_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}. Use the model's.")

    def without_unseen(self, example: Example) -> Example:
        """Drops defects that the geometry cuts away: the picture as the model sees it is good then.

        Args:
            example (`Example`): Changed in place.

        Returns:
            `Example`: The same.
        """
        if example.mask is not None and example.mask.any():
            example.mask = seen_part(example.mask, self.canvas_size, self.processor.image_processor.geometry)
            if not example.mask.any():
                example.anomalous, example.defect_types = False, ()
        return example

    def __call__(self, example: Example, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Encodes one sample.

        Args:
            example (`Example`): The picture and what is known of it.
            messages (`list[dict[str, str]]`): Questions and answers in turn.

        Returns:
            `dict`: `input_ids`, `labels` (lists of `T`), `pixel_values` `(3, H, W)`, `mask_labels` `(M, M)` int64 or
            `None`, its side `map_size`, `reference_pixel_values` `(K, 3, H, W)` or `None`, `use_reference` (`bool`),
            `image_id`, and with a class tokenizer `state_prompt_ids` `(P, L)`, `state_prompt_labels` `(P,)`.
        """
        sample: dict[str, Any] = dict(self.processor.encode_conversation(messages, max_length=self.max_length))
        encoded = self.processor(images=example.picture, category=example.category, masks=[example.mask])
        sample["pixel_values"] = np.asarray(encoded["pixel_values"][0], dtype=np.float32)
        sample["mask_labels"] = self._target(example, encoded["mask_labels"][0])
        for name in ("state_prompt_ids", "state_prompt_labels"):
            if name in encoded:
                sample[name] = encoded[name][0]
        sample["use_reference"] = bool(example.references)
        sample["reference_pixel_values"] = self.references(example.references, example.turns)
        sample["map_size"] = self.map_size
        sample["image_id"] = example.image_id
        return sample

    def references(self, pictures: list[Image.Image], turns: int = 0) -> np.ndarray | None:
        """Reference pictures, turned on the canvas as the original does (a half turn at most where it is not square).

        Args:
            pictures (`list[PIL.Image.Image]`): Good photographs.
            turns (`int`, *optional*, defaults to 0): Quarter turns, 0 to 3.

        Returns:
            `np.ndarray` of shape `(K, 3, H, W)`, *optional*: `None` without pictures.
        """
        if not pictures:
            return None
        values = np.stack(self.processor.image_processor(pictures)["pixel_values"]).astype(np.float32)
        turns = turns if self.canvas_size[0] == self.canvas_size[1] else 2 * (turns % 2)
        return np.ascontiguousarray(np.rot90(values, turns, axes=(2, 3)))

    def _target(self, example: Example, on_canvas: np.ndarray) -> np.ndarray | None:
        """The pixel target: where the defects cover more of a pixel than the published threshold of 0.3."""
        if example.mask is None or (example.anomalous and not on_canvas.any()):
            return None  # a picture that is called anomalous must not be trained with an empty target
        size = (self.map_size, self.map_size)
        if on_canvas.shape == size:
            return on_canvas
        covered = np.asarray(Image.fromarray(on_canvas.astype(np.float32)).resize(size, Image.Resampling.BOX))
        target = covered > 0.3
        if on_canvas.any() and not target.any():
            target = covered >= covered.max()  # a defect smaller than a pixel of the map
        return target.astype(np.int64)


__all__ = ["ExampleEncoder"]
