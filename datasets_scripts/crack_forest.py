"""CrackForest as a `datasets` builder: road surfaces with cracks, their ground truth read from MATLAB files."""

import os
from pathlib import Path

import numpy as np

from .anomaly_builder import AnomalyBuilder, dataset_info
from .anomaly_files import AnomalyRecord, check_category, list_pictures

CRACK_FOREST_CATEGORY = "road"


def read_segmentation(path: str | os.PathLike) -> np.ndarray:
    """Read the cracks from a ground truth file: `groundTruth.Segmentation` is 1 on the road and above 1 on a crack.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True on a crack.

    Raises:
        ValueError: If the file has no such field.
        ImportError: If SciPy is not installed.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise ImportError(
            "Reading CrackForest's .mat files needs SciPy. Install it: pip install 'anomalygpt[crackforest]'"
        ) from error
    try:
        contents = scipy.io.loadmat(path)
        segmentation = np.asarray(contents["groundTruth"]["Segmentation"][0, 0])
    except (KeyError, IndexError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"Ground truth must be a MATLAB file with groundTruth.Segmentation, got {str(path)!r} "
            f"({type(error).__name__}). Take the file of the archive."
        ) from error
    if segmentation.ndim != 2:
        raise ValueError(
            f"groundTruth.Segmentation must have 2 axes, got shape {segmentation.shape} in {str(path)!r}."
        )
    return segmentation > 1


class CrackForest(AnomalyBuilder):
    """CrackForest (https://github.com/cuilimeng/CrackForest-dataset): 118 pictures of roads, one category, one split.

    There is no official division and no picture without a crack, so all stand in `test`. The label follows the ground
    truth; a picture without ground truth has neither label nor mask.
    """

    LAYOUT = "<data_dir>/image/*.jpg, <data_dir>/groundTruth/<stem>.mat"
    INFO = dataset_info("crack_forest")

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        check_category(category, (CRACK_FOREST_CATEGORY,))
        pictures = list_pictures(data_dir / "image")
        truth_folder = data_dir / "groundTruth"
        truths = {path.stem: path for path in sorted(truth_folder.glob("*.mat"))}
        if not pictures or not truths:
            raise FileNotFoundError(
                f"`data_dir` must hold pictures in 'image' and .mat files in 'groundTruth', got {len(pictures)} and "
                f"{len(truths)} in {str(data_dir)!r}. Expected layout: {self.LAYOUT}."
            )
        orphans = sorted(truths.keys() - {path.stem for path in pictures})
        if orphans:
            raise ValueError(
                f"Every mask must have its picture, got {str(truths[orphans[0]])!r} but no picture {orphans[0]!r} in "
                f"'image' ({len(orphans)} such files). Unpack the whole archive."
            )
        records = []
        for path in pictures:
            truth = truths.get(path.stem)
            label = None if truth is None else int(read_segmentation(truth).any())
            facts = label, CRACK_FOREST_CATEGORY, {None: None, 0: "good", 1: "crack"}[label]
            masks = (str(truth),) if label else ()
            records.append(AnomalyRecord(str(path), *facts, path.relative_to(data_dir).as_posix(), "test", masks))
        return records

    def mask_size(self, path: str) -> tuple[int, int]:
        height, width = read_segmentation(path).shape
        return height, width

    def read_mask(self, record: AnomalyRecord) -> np.ndarray:
        return read_segmentation(record.masks[0])
