"""Data set builder of rendered industrial parts: nothing to download, any number of pictures, seeded.

The cache takes note of the contents of all files that draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from . import rendering
from .anomaly_builder import COLUMNS, dataset_info, schema_features
from .anomaly_files import files_fingerprint
from .rendering.products import FAMILIES, HELD_BACK_FAMILIES, TRAINING_FAMILIES, render_product

_RENDERING = Path(rendering.__file__).parent


@dataclass
class RenderedPartsConfig(datasets.BuilderConfig):
    """Configuration of [`RenderedParts`].

    Args:
        families (`tuple[str, ...]`, *optional*): Families to draw; all by default.
        num_train (`int`, *optional*, defaults to 64): Good pictures of each family in the train split.
        num_test (`int`, *optional*, defaults to 32): Pictures of each family in the test split.
        defect_share (`float`, *optional*, defaults to 0.5): Share of the test pictures that have a defect.
        size (`int`, *optional*, defaults to 224): Width and height in pixels.
        seed (`int`, *optional*, defaults to 0): Seed; each family shows one product, another for each seed.

    Raises:
        ValueError: On an unknown family, what is no number or a negative one, a share outside 0 to 1, or a size below
            64.
    """

    version: datasets.Version = datasets.Version("1.0.0")
    families: tuple[str, ...] = FAMILIES
    num_train: int = 64
    num_test: int = 32
    defect_share: float = 0.5
    size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Checks all options; the builder does so again, since `datasets` sets those of a named configuration itself.

        Raises:
            ValueError: On an unknown family, what is no number or a negative one, a share outside 0 to 1, or a size
                below 64.
        """
        self.families = (self.families,) if isinstance(self.families, str) else tuple(self.families)
        if not self.families:
            raise ValueError("`families` must hold at least one family, got none. Leave it out for all.")
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"`families` must hold only {', '.join(FAMILIES)}, got {family!r}. Correct the name.")
        for name, least in (("num_train", 0), ("num_test", 0), ("seed", 0), ("size", 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"`{name}` must be {least} or more, got {value!r}. Pass a whole number from {least}.")
        share = self.defect_share
        if not isinstance(share, int | float | np.number) or not 0 <= share <= 1:
            raise ValueError(f"`defect_share` must be between 0 and 1, got {share!r}. Pass 0.5 or so.")


class RenderedParts(datasets.GeneratorBasedBuilder):
    """Rendered photographs of industrial parts: good ones to train on, good and defective ones to test on.

    Every family shows one product (per seed), as in the public inspection data sets, so that a few good pictures tell
    how its other pictures should look. Configurations: `all`, `training` and `held_back` families, and one a family.

    Args:
        cache_dir (`str`, *optional*): Folder of the prepared data.
        hash (`str`, *optional*): What `datasets` 3 hands to scripts; joined to the fingerprint of the code that draws.
        kwargs: Options of [`RenderedPartsConfig`], and as for `datasets.GeneratorBasedBuilder`.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = RenderedPartsConfig
    BUILDER_CONFIGS = [
        RenderedPartsConfig(name="all"),
        RenderedPartsConfig(name="training", families=TRAINING_FAMILIES),
        RenderedPartsConfig(name="held_back", families=HELD_BACK_FAMILIES),
        *(RenderedPartsConfig(name=family, families=(family,)) for family in FAMILIES),
    ]
    DEFAULT_CONFIG_NAME = "all"

    def __init__(self, cache_dir: str | None = None, *, hash: str | None = None, **kwargs: Any) -> None:
        drawn_with = sorted(path for path in _RENDERING.iterdir() if path.suffix in (".py", ".json"))
        hash = (hash or "") + files_fingerprint(None, [Path(__file__), *drawn_with])
        super().__init__(cache_dir=cache_dir, hash=hash, **kwargs)
        self.config.check()

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=schema_features(), **dataset_info("rendered_parts"))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        families = list(self.config.families)
        return [
            datasets.SplitGenerator(split, gen_kwargs={"families": families, "split": split})
            for split in ("train", "test")
        ]

    def _generate_examples(self, families: list[str], split: str):
        config = self.config
        for family in families:
            number = FAMILIES.index(family)
            product = render_product(family, np.random.default_rng([config.seed, number]), config.size)
            total = config.num_train if split == "train" else config.num_test
            defective = 0 if split == "train" else round(total * config.defect_share)
            for index in range(total):
                rng = np.random.default_rng([config.seed, number, split == "test", index])
                part = product.photograph(rng, "random" if index < defective else None)
                image_id = f"{family}/{split}/{part.defect_type}/{index:04d}"
                mask = Image.fromarray(part.mask.astype(np.uint8) * 255) if part.label else None
                row = (Image.fromarray(part.image), mask, part.label, family, part.defect_type, image_id, split)
                yield image_id, dict(zip(COLUMNS, row, strict=True))
