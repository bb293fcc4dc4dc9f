"""The one schema of all inspection data sets."""

from __future__ import annotations

import datasets

COLUMNS: tuple[str, ...] = ("image", "mask", "label", "category", "defect_type", "image_id", "split")
"""The columns, in order."""

LABEL_NAMES: tuple[str, str] = ("normal", "anomalous")
"""Names of the two labels."""

NORMAL, ANOMALOUS = 0, 1

GOOD = "good"
"""The `defect_type` of a picture without defect."""


def schema_features() -> datasets.Features:
    """Column types that every builder yields.

    Returns:
        [`~datasets.Features`]: `image` in RGB; `mask`, one channel of 0 and 255, null where no pixel annotation
        exists; `label` (0 normal, 1 anomalous); `category`; `defect_type` (`"good"` without defect); `image_id`,
        unique in the data set; `split`.

    ```python
    >>> schema_features()["label"].names
    ['normal', 'anomalous']

    ```
    """
    return datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "mask": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=list(LABEL_NAMES)),
            "category": datasets.Value("string"),
            "defect_type": datasets.Value("string"),
            "image_id": datasets.Value("string"),
            "split": datasets.Value("string"),
        }
    )
