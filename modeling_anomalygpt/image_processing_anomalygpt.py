"""Pictures to model inputs and maps back to pictures: one geometry for query, reference and mask.

Knows PIL, NumPy and geometry; knows no weights and no device.
"""

import base64
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs

from .errors import describe_error
from .images import MASK_THRESHOLD, MAX_PIXELS, PictureError, flatten_pictures, load_mask, load_picture
from .onednn import product

GEOMETRIES = ("square", "center_crop", "letterbox")
"""How a picture of any shape fills the model's canvas."""

MAX_SIDE = 4096
"""Largest side of that canvas; 200 MB a picture."""

# Options of transformers that can have no other value here.
_ALWAYS = {
    "do_convert_rgb": True,
    "do_center_crop": False,
    "crop_size": None,
    "do_pad": False,
    "pad_size": None,
    "data_format": "channels_first",
    "device": "cpu",
    "image_seq_length": None,
}
_ADVICE = (
    "Leave it out: `size` and `geometry` ('center_crop' cuts, 'letterbox' pads) place pictures; `resample`, "
    "`do_resize`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean` and `image_std` may be changed as well."
)


class AnomalyGPTImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments of the image processor beside those of transformers.

    Attributes:
        geometry (`str`): `"square"`, `"center_crop"` or `"letterbox"`.
        mask_threshold (`float`): A mask's pixel is anomalous above this part of its range, 0 to 1.
    """

    geometry: Literal["square", "center_crop", "letterbox"] | None
    mask_threshold: float | None


class Placement(NamedTuple):
    """Where the resized picture lies on the canvas: it is `height` x `width`, its corner at row `top`, column `left`.

    Negative corners are cut away (`center_crop`); positive ones leave a margin (`letterbox`).
    """

    height: int
    width: int
    top: int
    left: int


def place(picture_size: Sequence[int], canvas_size: Sequence[int], geometry: str) -> Placement:
    """Size and position of a picture on the canvas.

    Args:
        picture_size (`tuple[int, int]`): `(height, width)` of the picture.
        canvas_size (`tuple[int, int]`): `(height, width)` of the model's input.
        geometry (`str`): `"square"` (both sides stretched), `"center_crop"` (the canvas is covered, what stands out is
            cut; the rounding of the published test transform: the long side is truncated, the margin rounded) or
            `"letterbox"` (the whole picture fits, with margins).

    Returns:
        `Placement`: The resized picture's size and corner.

    Raises:
        ValueError: If the geometry is unknown, **or** the picture is so oblong that, covering the canvas, it would
            have more pixels than any picture that is opened.

    Example:
    ```python
    >>> place((200, 320), (224, 224), "center_crop")
    Placement(height=224, width=358, top=0, left=-67)
    >>> place((200, 320), (224, 224), "letterbox")
    Placement(height=140, width=224, top=42, left=0)

    ```
    """
    (height, width), (rows, columns) = picture_size, canvas_size
    if geometry == "square":
        return Placement(rows, columns, 0, 0)
    if geometry == "center_crop":
        if rows * width >= columns * height:
            resized = (rows, max(columns, int(rows * width / height)))
        else:
            resized = (max(rows, int(columns * height / width)), columns)
        if resized[0] * resized[1] > MAX_PIXELS:
            raise PictureError(
                f"`images` must be less oblong for the geometry 'center_crop', got {width} x {height} pixels. Cut the "
                "picture before, or choose 'letterbox'."
            )
        return Placement(*resized, -round((resized[0] - rows) / 2), -round((resized[1] - columns) / 2))
    if geometry == "letterbox":
        scale = min(rows / height, columns / width)
        resized = (min(rows, max(1, round(height * scale))), min(columns, max(1, round(width * scale))))
        return Placement(*resized, (rows - resized[0]) // 2, (columns - resized[1]) // 2)
    raise ValueError(f"`geometry` must be one of {', '.join(GEOMETRIES)}, got {geometry!r}. Choose one of them.")


class AnomalyGPTImageProcessor(PilBackend):
    """Turns pictures (and their masks) into `pixel_values` (and `mask_labels`), and anomaly maps back into pictures.

    The geometry is the same for queries, references and masks. `"square"` is what the published training and demo
    use, `"center_crop"` what the published tests use, `"letterbox"` shows everything undistorted.

    Args:
        geometry (`str`, *optional*, defaults to `"square"`): `"square"`, `"center_crop"` or `"letterbox"`.
        size (`dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`): Size of the model's input.
        resample (`PILImageResampling`, *optional*, defaults to bicubic): How pictures are resized; masks take the
            nearest pixel.
        image_mean (`list[float]`, *optional*, defaults to CLIP's): Mean of each channel, for pixels between 0 and 1;
            the margins of `"letterbox"` have this colour.
        image_std (`list[float]`, *optional*, defaults to CLIP's): Deviation of each channel.
        mask_threshold (`float`, *optional*, defaults to 0.3): A mask's pixel is anomalous above this part of its
            range.

    Example:
    ```python
    >>> import numpy as np
    >>> processor = AnomalyGPTImageProcessor(geometry="letterbox", size={"height": 8, "width": 8})
    >>> picture, mask = np.zeros((2, 4, 3), dtype=np.uint8), np.ones((2, 4), dtype=bool)
    >>> inputs = processor(picture, masks=mask, return_tensors="pt")
    >>> inputs["pixel_values"].shape
    torch.Size([1, 3, 8, 8])
    >>> inputs["mask_labels"][0, :, 0].tolist()
    [0, 0, 1, 1, 1, 1, 0, 0]
    >>> processor.post_process_anomaly_map(np.ones((1, 8, 8)), [(2, 4)])[0].shape
    (2, 4)

    ```
    """

    valid_kwargs = AnomalyGPTImageProcessorKwargs
    _auto_class = "AutoImageProcessor"
    model_input_names = ["pixel_values"]
    geometry = "square"
    mask_threshold = MASK_THRESHOLD
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def preprocess(self, images: Any, masks: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare one picture or many.

        Args:
            images (picture or nested list of pictures): Paths, PIL pictures or arrays, see `load_picture`; addresses
                and base64 text are fetched by transformers, as everywhere in the library.
            masks (mask or list, *optional*): One mask of the same size for each picture, see `load_mask`; `None` for a
                picture without pixel labels.
            **kwargs: Any argument of the constructor, for this call; `return_tensors` (`"pt"` or `"np"`).

        Returns:
            `BatchFeature`: `pixel_values` `(B, 3, H, W)` float32 and, with masks, `mask_labels` `(B, H, W)` int64: 1
            anomalous, 0 normal or outside the picture, all -1 for a picture without a mask.

        Raises:
            ValueError: If a picture or a mask is unusable, or a mask is of another size than its picture.
        """
        return super().preprocess(images, image_like_kwargs={"masks": masks}, **kwargs)

    def post_process_anomaly_map(
        self,
        anomaly_map: Any,
        original_sizes: Sequence[Sequence[int]],
        geometry: str | None = None,
        size: dict[str, int] | None = None,
    ) -> list[np.ndarray]:
        """Bring the model's maps back into the pixels of the original pictures, by bilinear interpolation.

        Pixel centres are matched, the margins of `"letterbox"` never enter, and what `"center_crop"` cut away, so that
        the model has not seen it, is 0.

        Args:
            anomaly_map (`torch.Tensor` or `np.ndarray` of shape `(B, h, w)` or `(h, w)`): Maps of the whole canvas, at
                any resolution.
            original_sizes (`list[tuple[int, int]]`): `(height, width)` of each original picture, after EXIF rotation.
            geometry (`str`, *optional*): As given to the call, where it was not the processor's own.
            size (`dict[str, int]`, *optional*): As given to the call, where it was not the processor's own.

        Returns:
            `list[np.ndarray]`: One float32 map `(height, width)` for each picture, with the values of `anomaly_map`.

        Raises:
            ValueError: If the numbers of maps and sizes differ.
        """
        maps = (
            anomaly_map.detach().float().cpu().numpy() if hasattr(anomaly_map, "detach") else np.asarray(anomaly_map)
        )
        maps = maps[None] if maps.ndim == 2 else maps
        if maps.ndim != 3 or len(maps) != len(original_sizes):
            raise ValueError(
                f"`anomaly_map` must have the shape (B, h, w) with one map for each of the {len(original_sizes)} "
                f"`original_sizes`, got {maps.shape}. Give `original_sizes` as a list of (height, width)."
            )
        canvas = (size["height"], size["width"]) if size else (self.size["height"], self.size["width"])
        restored = []
        for one, picture_size in zip(maps.astype(np.float32), original_sizes, strict=True):
            at = place(picture_size, canvas, geometry or self.geometry)
            rows = _interpolation(picture_size[0], at.height, at.top, canvas[0], one.shape[0])
            columns = _interpolation(picture_size[1], at.width, at.left, canvas[1], one.shape[1])
            # The shorter intermediate first. NumPy would start threads of its own, which spin beside those of torch.
            rows, columns, one = (torch.from_numpy(each) for each in (rows, columns, one))
            with torch.no_grad():
                full = product(rows, product(columns, one))
            restored.append(full.clamp_(max=one.max()).numpy())  # rounding must not lift a value above the map's own
        return restored

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Leaves pictures as they are; fetches addresses (`https://...`) and base64 text (`data:image/...`) undecoded.

        Args:
            image_url_or_urls (picture or nested list of pictures): Anything the processor is called with.

        Returns:
            The same structure with `bytes` for what was fetched; [`load_picture`] decodes every picture.

        Raises:
            PictureError: If nothing can be fetched.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(one) for one in image_url_or_urls]
        if isinstance(image_url_or_urls, str) and image_url_or_urls.startswith(("http://", "https://", "data:image/")):
            return _fetched(image_url_or_urls)
        return image_url_or_urls

    def _standardize_kwargs(self, size: Any = None, **kwargs: Any) -> dict[str, Any]:
        refuse_changes(kwargs, _ALWAYS, _ADVICE)
        kwargs = super()._standardize_kwargs(size=size, **kwargs)
        geometry, size, threshold = kwargs.get("geometry"), kwargs["size"], kwargs.get("mask_threshold")
        if geometry not in GEOMETRIES:
            raise ValueError(
                f"`geometry` must be one of {', '.join(GEOMETRIES)}, got {geometry!r}. Choose one of them."
            )
        sides = (size.height or 0, size.width or 0) if size else (0, 0)
        if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
            raise ValueError(f"`size` must have a 'height' and 'width' from 1 to {MAX_SIDE}, got {size}. Give both.")
        if threshold is None or not 0 <= threshold < 1:
            raise ValueError(f"`mask_threshold` must be between 0 and 1, got {threshold}. The published value is 0.3.")
        if (form := kwargs.get("input_data_format")) not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"`input_data_format` must be channels_first or channels_last, got {form!r}. Leave it out where the "
                "shape tells."
            )
        return kwargs

    def _preprocess_image_like_inputs(
        self, images: Any, masks: Any = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        pictures = [
            load_picture(_channels_last(one, kwargs["input_data_format"]))
            for one in flatten_pictures(self.fetch_images(images))
        ]
        data = {"pixel_values": [self._picture_to_canvas(picture, **kwargs) for picture in pictures]}
        if masks is not None:
            masks = flatten_pictures(masks)
            if len(masks) != len(pictures):
                raise ValueError(
                    f"`masks` must hold one mask for each of the {len(pictures)} pictures, got {len(masks)}. Give "
                    "None for a picture without one."
                )
            data["mask_labels"] = [
                self._mask_to_canvas(mask, picture, **kwargs) for mask, picture in zip(masks, pictures, strict=True)
            ]
        return BatchFeature(data, tensor_type=return_tensors)

    def _placement(self, picture: Image.Image, do_resize: bool, size: Any, geometry: str) -> Placement:
        picture_size = (picture.height, picture.width)
        if not do_resize and picture_size != (size.height, size.width):
            raise ValueError(
                f"`images` must have the size {size.height} x {size.width} when `do_resize` is False, got "
                f"{picture.height} x {picture.width}. Resize them or leave `do_resize` on."
            )
        return place(picture_size, (size.height, size.width), geometry)

    def _picture_to_canvas(
        self,
        picture: Image.Image,
        do_resize: bool,
        size: Any,
        geometry: str,
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        **unused: Any,
    ) -> np.ndarray:
        at = self._placement(picture, do_resize, size, geometry)
        if picture.size != (at.width, at.height):
            picture = picture.resize((at.width, at.height), resample)
        mean = np.broadcast_to(np.float32(image_mean), (3,))
        canvas = np.empty((size.height, size.width, 3), dtype=np.float32)
        canvas[:] = mean / (rescale_factor if rescale_factor else 1 / 255)
        paste(np.asarray(picture), canvas, at)
        if do_rescale:
            canvas *= np.float32(rescale_factor)
        if do_normalize:
            canvas = (canvas - mean) / np.float32(image_std)
        return np.ascontiguousarray(canvas.transpose(2, 0, 1), dtype=np.float32)

    def _mask_to_canvas(
        self,
        mask: Any,
        picture: Image.Image,
        do_resize: bool,
        size: Any,
        geometry: str,
        mask_threshold: float,
        **_: Any,
    ) -> np.ndarray:
        canvas = np.zeros((size.height, size.width), dtype=np.int64)
        if mask is None:
            return canvas - 1
        values = load_mask(mask)
        if values.shape != (picture.height, picture.width):
            raise ValueError(
                f"`masks` must have the size of their pictures, got a mask of {values.shape[0]} x {values.shape[1]} "
                f"for a picture of {picture.height} x {picture.width}. Give the mask that was drawn on this picture."
            )
        at = self._placement(picture, do_resize, size, geometry)
        anomalous = Image.fromarray((values > mask_threshold).astype(np.uint8))
        resized = anomalous.resize((at.width, at.height), PILImageResampling.NEAREST)
        paste(np.asarray(resized), canvas, at)
        return canvas


def refuse_changes(given: Mapping[str, Any], always: Mapping[str, Any], advice: str) -> None:
    """Refuses options that would be ignored.

    Args:
        given (`dict`): What the caller gave; `None` counts as not given.
        always (`dict`): The only value of each of these options.
        advice (`str`): What to do instead.

    Raises:
        ValueError: If one of them has another value.
    """
    for name, only in always.items():
        if (value := given.get(name)) is not None and (only is None or only not in (value, str(value))):
            raise ValueError(f"`{name}` must be {only}, got {str(value)[:60]}. {advice}")


def _fetched(address: str) -> bytes:
    try:
        if address.startswith("data:"):
            return base64.b64decode(address.partition(",")[2])
        request = urllib.request.Request(address, headers={"User-Agent": "anomalygpt"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
    except Exception as error:  # of the connection, of base64
        raise PictureError(
            f"`picture` must be a picture, none is at {address[:80]!r} ({describe_error(error)}). Check the address."
        ) from error


def _channels_last(picture: Any, input_data_format: Any) -> Any:
    if input_data_format is None or getattr(picture, "ndim", 0) != 3:
        return picture
    values = np.asarray(picture.detach().cpu() if hasattr(picture, "detach") else picture)
    last = str(getattr(input_data_format, "value", input_data_format)) == "channels_last"
    return values if last else np.moveaxis(values, 0, -1)


def paste(resized: np.ndarray, canvas: np.ndarray, at: Placement) -> None:
    """Puts a resized picture onto a canvas of the same kind, cut where it stands out."""
    rows, columns = canvas.shape[:2]
    top, left = max(at.top, 0), max(at.left, 0)
    cut = resized[top - at.top : rows - at.top, left - at.left : columns - at.left]
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut


def _interpolation(pixels: int, resized: int, corner: int, canvas: int, cells: int) -> np.ndarray:
    """Weights `(pixels, cells)` that read a map's cells at the centres of the original pixels, along one axis.

    Args:
        pixels (`int`): Side of the original picture.
        resized (`int`): Its side on the canvas.
        corner (`int`): Its first row or column on the canvas; negative where it is cut.
        canvas (`int`): Side of the canvas.
        cells (`int`): Side of the map that covers the canvas.

    Returns:
        `np.ndarray`: float32; each row sums to one, or is zero where the pixel lies outside the canvas.
    """
    on_canvas = (np.arange(pixels) + 0.5) * (resized / pixels) + corner
    first = int(np.floor(max(corner, 0) * cells / canvas))
    last = min(cells, int(np.ceil(min(corner + resized, canvas) * cells / canvas))) - 1
    position = np.clip(on_canvas * (cells / canvas) - 0.5, first, last)
    low = np.minimum(np.floor(position).astype(np.int64), max(last - 1, first))
    part = (position - low).astype(np.float32)
    weights = np.zeros((pixels, cells), dtype=np.float32)
    index = np.arange(pixels)
    weights[index, low] = 1 - part
    weights[index, np.minimum(low + 1, last)] += part
    weights[(on_canvas < 0) | (on_canvas > canvas)] = 0
    return weights


__all__ = [
    "GEOMETRIES",
    "AnomalyGPTImageProcessor",
    "Placement",
    "load_mask",
    "load_picture",
    "paste",
    "place",
    "refuse_changes",
]
