"""Small data sets in the columns of inspection data, whose pictures tell which they are."""

import datasets
import numpy as np
from PIL import Image

from modeling_anomalygpt.synthesis.synthesizer import SyntheticAnomaly

SCHEMA = datasets.Features(
    {
        "image": datasets.Image(mode="RGB"),
        "mask": datasets.Image(mode="L"),
        "label": datasets.ClassLabel(names=["normal", "anomalous"]),
        **{name: datasets.Value("string") for name in ("category", "defect_type", "image_id", "split")},
    }
)
CONVERSATION = datasets.Features(
    {
        "image": datasets.Image(mode="RGB"),
        "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
        "image_id": datasets.Value("string"),
    }
)


def grey_picture(level, size=(48, 40)):
    """A picture of one grey level, but for a white top left quarter that tells how it is turned."""
    image = Image.new("RGB", size, (level,) * 3)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


def defect_mask(box=(30, 24, 44, 36), size=(48, 40)):
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def inspection_rows(normal=6, anomalous=0, category="nut", first=10, masks=True):
    """Normal rows of grey level `first` upwards, then anomalous ones with a masked defect at the bottom right."""
    rows = []
    for index in range(normal + anomalous):
        bad = index >= normal
        rows.append(
            {
                "image": grey_picture(first + index),
                "mask": defect_mask() if bad and masks else None,
                "label": int(bad),
                "category": category,
                "defect_type": "scratch" if bad else "good",
                "image_id": f"{category}/{index}",
                "split": "train",
            }
        )
    return datasets.Dataset.from_list(rows, features=SCHEMA)


def conversation_rows(count=5):
    rows = [
        {
            "image": Image.new("RGB", (30, 30), (200, index, 0)),
            "messages": [
                {"role": "user", "content": f"What is number {index}?"},
                {"role": "assistant", "content": f"It is number {index}."},
            ],
            "image_id": f"chat {index}",
        }
        for index in range(count)
    ]
    return datasets.Dataset.from_list(rows, features=CONVERSATION)


def marking(image, source, rng, category=None):
    """A quick synthesis method: a grey square at a random place; its mask is exact."""
    side = int(rng.integers(6, 14))
    top, left = (int(rng.integers(0, extent - side)) for extent in image.shape[:2])
    result = image.copy()
    result[top : top + side, left : left + side] = 150
    mask = np.zeros(image.shape[:2], bool)
    mask[top : top + side, left : left + side] = True
    return SyntheticAnomaly(result, mask, mask.astype(np.float32), [mask], "stain")


def decoded(pixel_values, image_processor):
    """The 8-bit picture that `pixel_values` was made of."""
    mean, std = (
        np.float32(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    return np.round((np.asarray(pixel_values) * std + mean) * 255).astype(int)


def answers(sample, processor):
    """The text of all answers of a sample."""
    return processor.tokenizer.decode([token for token in sample["labels"] if token != -100])
