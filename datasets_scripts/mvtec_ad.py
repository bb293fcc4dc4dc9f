"""MVTec AD as a `datasets` builder: 15 categories of industrial objects and textures, in the layout of its archive."""

from pathlib import Path

from .anomaly_builder import AnomalyBuilder, category_configs
from .anomaly_files import AnomalyRecord
from .mvtec_layout import MVTEC_LAYOUT, scan_categories
from .schema import schema_features
from .validation import check_category

__all__ = ["MVTEC_AD_CATEGORIES", "MVTecAD"]

MVTEC_AD_CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)

_CITATION = """\
@inproceedings{bergmann2019mvtec,
  title     = {{MVTec AD} -- A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection},
  author    = {Bergmann, Paul and Fauser, Michael and Sattlegger, David and Steger, Carsten},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019},
  doi       = {10.1109/CVPR.2019.00982}
}"""


class MVTecAD(AnomalyBuilder):
    """
    MVTec AD (https://www.mvtec.com/company/research/datasets/mvtec-ad): train is normal, test normal and defective.

    Args:
        data_dir (`str` or `os.PathLike`):
            Folder that holds the unpacked categories.
        config_name (`str`, *optional*, defaults to `"all"`):
            `all` or one of `MVTEC_AD_CATEGORIES`.
    """

    BUILDER_CONFIGS = category_configs(MVTEC_AD_CATEGORIES, AnomalyBuilder.VERSION)
    DEFAULT_CONFIG_NAME = "all"
    LAYOUT = MVTEC_LAYOUT
    FEATURES = schema_features()
    INFO = {
        "description": "Photographs of 5 textures and 10 objects for anomaly detection: normal pictures to learn "
        "from, normal and defective ones with pixel masks to test on.",
        "citation": _CITATION,
        "homepage": "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "license": "cc-by-nc-sa-4.0",
    }

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        """
        Find the pictures, and check the layout.

        Args:
            data_dir (`Path`): Folder that holds the categories.
            category (`str`, *optional*): The only category to read.

        Returns:
            `list[AnomalyRecord]`: The pictures of all splits.
        """
        if category is not None:
            check_category(category, MVTEC_AD_CATEGORIES, "Other names are read by `anomaly_folder`.")
        return scan_categories(data_dir, category, MVTEC_AD_CATEGORIES)
