"""MVTec AD as a `datasets` builder, and the folder layout that LOCO and most own data sets share with it.

`train|validation|test/<kind>/<picture>`, with masks in `ground_truth/<kind>/`, named `<stem>_mask` or `<stem>`, or as
several files in a folder `<stem>`; or labelme files beside the pictures, named `<stem>.json`.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from modeling_anomalygpt.images import split_page

from .anomaly_builder import FACTS, AnomalyBuilder, category_configs, dataset_info
from .anomaly_files import AnomalyRecord, check_category, closest, list_folders, list_masks, list_pictures

MVTEC_AD_CATEGORIES = tuple(FACTS["mvtec_ad"]["categories"])
MVTEC_LAYOUT = (
    "<data_dir>/<category>/train/good/*.png, <category>/test/{good,<defect>}/*.png, "
    "<category>/ground_truth/<defect>/<stem>_mask.png"
)
SPLITS = ("train", "validation", "test")


class MVTecAD(AnomalyBuilder):
    """MVTec AD (https://www.mvtec.com/company/research/datasets/mvtec-ad): 15 categories.

    Args:
        data_dir (`str` or `os.PathLike`): Folder that holds the unpacked categories.
        config_name (`str`, *optional*, defaults to `"all"`): `all` or one of `MVTEC_AD_CATEGORIES`.
    """

    BUILDER_CONFIGS = category_configs(MVTEC_AD_CATEGORIES)
    DEFAULT_CONFIG_NAME = "all"
    LAYOUT = MVTEC_LAYOUT
    INFO = dataset_info("mvtec_ad")

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        return scan_categories(data_dir, category, MVTEC_AD_CATEGORIES)


def find_categories(data_dir: str | os.PathLike) -> list[str]:
    """Names of the folders that look like a category: those with a `train`, `validation` or `test` folder."""
    return [folder.name for folder in list_folders(data_dir) if is_category(folder)]


def is_category(folder: str | os.PathLike) -> bool:
    """Whether a folder is laid out as one category: it has a `train`, `validation` or `test` folder."""
    return any((Path(folder) / split).is_dir() for split in SPLITS)


def scan_categories(
    data_dir: str | os.PathLike, category: str | None, published: Sequence[str]
) -> list[AnomalyRecord]:
    """Read a published data set: the category asked for, or all of its categories that are there.

    Args:
        data_dir (`str` or `os.PathLike`): Folder that holds the categories.
        category (`str`, *optional*): The only category to read.
        published (`Sequence[str]`): The categories the data set has.

    Returns:
        `list[AnomalyRecord]`: The pictures, category by category. Missing categories give a warning with their names.

    Raises:
        ValueError: If the category is unknown, or `data_dir` is itself a category's folder.
        FileNotFoundError: If the category, or every category, is missing.
    """
    data_dir = Path(data_dir)
    check_category(category, published, "Other names are read by `anomaly_folder`.")
    if is_category(data_dir):
        raise ValueError(
            f"`data_dir` must be the folder that holds the categories, got {str(data_dir)!r}, which is one category. "
            f"Pass {str(data_dir.parent)!r}, or read own pictures with `anomaly_folder`."
        )
    there = find_categories(data_dir)
    if category is not None:
        if category not in there:
            raise FileNotFoundError(
                f"`data_dir` must hold the folder of {category!r}, got {str(data_dir)!r} with "
                f"{', '.join(there) or 'no category'}. Expected layout: {MVTEC_LAYOUT}."
            )
        return scan_category(data_dir / category, category, data_dir)
    present = [name for name in published if name in there]
    if not present:
        others = f" with {', '.join(there)}" if there else ""
        raise FileNotFoundError(
            f"`data_dir` must hold at least one of {', '.join(published)}, got {str(data_dir)!r}{others}. "
            f"Expected layout: {MVTEC_LAYOUT}."
        )
    if len(present) < len(published):
        missing = ", ".join(name for name in published if name not in there)
        warnings.warn(f"{str(data_dir)!r} is not the whole data set, it lacks: {missing}", UserWarning, stacklevel=2)
    return [record for name in present for record in scan_category(data_dir / name, name, data_dir)]


def scan_category(
    folder: str | os.PathLike,
    category: str,
    image_id_root: str | os.PathLike,
    normal_kinds: Sequence[str] = ("good",),
    own_pictures: bool = False,
) -> list[AnomalyRecord]:
    """Read one category's folder.

    Args:
        folder (`str` or `os.PathLike`): The category's folder.
        category (`str`): Name put into the records.
        image_id_root (`str` or `os.PathLike`): Folder the image ids are relative to.
        normal_kinds (`Sequence[str]`): Folder names that mean "no defect", compared without regard to case.
        own_pictures (`bool`): False holds a published set to its layout: masks for all defective pictures, none of
            them in `train`. True takes what there is: masks are optional, defects may stand in any split, and pictures
            directly in a split's folder are unlabelled.

    Returns:
        `list[AnomalyRecord]`: In the order train, validation, test, then kind, then file name.

    Raises:
        FileNotFoundError: If there is no picture, a kind's folder is empty, or a mask is missing.
        ValueError: If masks have no picture, or (published sets) `train` holds defects.
    """
    folder = Path(folder)
    normal = {kind.casefold() for kind in normal_kinds}
    kinds_by_split = {split: list_folders(folder / split) for split in SPLITS}
    defects: dict[str, list[Path]] = {}
    for kind in (kind for kinds in kinds_by_split.values() for kind in kinds):
        if kind.name.casefold() not in normal:
            defects.setdefault(kind.name, []).append(kind)
    masks = {name: _masks_of_kind(folder, name, kinds) for name, kinds in sorted(defects.items())}
    _refuse_masks_of_unknown_kinds(folder, set(defects), normal)
    records = []
    for split, kinds in kinds_by_split.items():
        loose = list_pictures(folder / split)
        if loose and not own_pictures:
            raise ValueError(
                f"Pictures of {category!r} must stand in folders of their kind, got {str(loose[0])!r}. "
                f"Expected layout: {MVTEC_LAYOUT}."
            )
        records += [AnomalyRecord(str(path), None, category, None, _id(path, image_id_root), split) for path in loose]
        for kind in kinds:
            is_normal = kind.name.casefold() in normal
            if not own_pictures and not is_normal and split != "test":
                raise ValueError(
                    f"`{split}` of {category!r} must hold normal pictures only, got the folder {str(kind)!r}. "
                    "Read changed data sets with `anomaly_folder`."
                )
            for path in _pictures_of_kind(kind):
                found = () if is_normal else masks[kind.name].get(_stem(path), ())
                if not (found or is_normal or own_pictures):
                    raise FileNotFoundError(
                        f"Every defective picture of {category!r} must have a mask, got none for {str(path)!r}. "
                        f"Expected {folder / 'ground_truth' / kind.name / (path.stem + '_mask.png')}; "
                        "`anomaly_folder` reads data without masks."
                    )
                facts = int(not is_normal), category, "good" if is_normal else kind.name
                records.append(AnomalyRecord(str(path), *facts, _id(path, image_id_root), split, found))
    if not records:
        raise FileNotFoundError(
            f"Category {category!r} must hold pictures, got none in {str(folder)!r}. Expected layout: {MVTEC_LAYOUT}."
        )
    return records


def _pictures_of_kind(kind: Path) -> list[Path]:
    pictures = list_pictures(kind)
    if not pictures:
        raise FileNotFoundError(
            f"Folders of pictures must not be empty, got none in {str(kind)!r}. Expected layout: {MVTEC_LAYOUT}."
        )
    return pictures


def _masks_of_kind(folder: Path, kind: str, kind_folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """Map picture stems to their mask files, and refuse masks that fit no picture or more than one."""
    stems: dict[str, list[Path]] = {}
    found: dict[str, tuple[str, ...]] = {}
    for picture in (picture for kind_folder in kind_folders for picture in list_pictures(kind_folder)):
        stems.setdefault(_stem(picture), []).append(picture)
        if (drawn := Path(split_page(picture)[0]).with_suffix(".json")).is_file():
            found[_stem(picture)] = (str(drawn),)
    truth = folder / "ground_truth" / kind
    entries = [(_stem(path), (path,)) for path in list_masks(truth)]
    entries += [(path.name, tuple(list_masks(path))) for path in list_folders(truth)]
    for name, files in entries:
        stem = name if name in stems else "#".join(part.removesuffix("_mask") for part in name.split("#"))
        if stem not in stems:
            raise ValueError(
                f"Every mask must have its picture, got {str(truth / name)!r} but no picture {stem!r} "
                f"in {kind!r}.{closest(stem, stems)} Name the mask <stem>_mask after the picture."
            )
        if len(stems[stem]) > 1:
            pictures = ", ".join(repr(str(path)) for path in stems[stem])
            raise ValueError(f"A mask must fit one picture, got {str(truth / name)!r} for {pictures}. Rename one.")
        found[stem] = found.get(stem, ()) + tuple(str(path) for path in files)
    return found


def _refuse_masks_of_unknown_kinds(folder: Path, defects: set[str], normal: set[str]) -> None:
    """Refuse a `ground_truth` folder that no folder of pictures has the name of."""
    for kind in list_folders(folder / "ground_truth"):
        if kind.name not in defects and kind.name.casefold() not in normal:
            raise ValueError(
                f"Every folder of masks must have its folder of pictures, got {str(kind)!r} but no "
                f"test/{kind.name}.{closest(kind.name, defects)}"
            )


def _stem(path: Path) -> str:
    """The name of a picture or mask without its suffix; of a page with its number."""
    file, page = split_page(path)
    return Path(file).stem + (f"#{page}" if file != str(path) else "")


def _id(path: Path, root: str | os.PathLike) -> str:
    """Name a picture by its path below the root."""
    return path.relative_to(root).as_posix()
