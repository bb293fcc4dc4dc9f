"""One call for every data set: its name to a prepared or a streaming `datasets` object.

Knows which name belongs to which builder. Does not know any layout.
"""

import contextlib
import errno
import importlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

import datasets

from .anomaly_files import check_category, closest

_BUILDERS = {
    "mvtec_ad": "MVTecAD",
    "visa": "VisA",
    "mvtec_loco": "MVTecLOCO",
    "crack_forest": "CrackForest",
    "anomaly_folder": "AnomalyFolder",
    "conversations": "Conversations",
    "rendered_parts": "RenderedParts",
    "cad_parts": "CadParts",
}
DATASET_NAMES = tuple(_BUILDERS)
_NOT_OPTIONS = ("self", "name", "version", "data_dir", "data_files", "description")


def load_builder(
    name: str,
    data_dir: str | os.PathLike | None = None,
    category: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> datasets.DatasetBuilder:
    """Make the builder of a data set, as for [`load_anomaly_dataset`]; nothing is prepared yet.

    Returns:
        `datasets.DatasetBuilder`: The builder.

    Raises:
        ValueError: If the name or an option is unknown.
    """
    if name not in _BUILDERS:
        raise ValueError(f"`name` must be one of {', '.join(_BUILDERS)}, got {name!r}.{closest(str(name), _BUILDERS)}")
    builder_class = getattr(importlib.import_module(f"{__package__}.{name}"), _BUILDERS[name])
    parameters = inspect.signature(builder_class.BUILDER_CONFIG_CLASS.__init__).parameters
    if category is not None:
        if category in builder_class.builder_configs:
            options["config_name"] = category
        elif "category" in parameters:
            options["category"] = category
        else:
            check_category(category, list(builder_class.builder_configs), f"{name!r} knows no others.")
    known = [parameter for parameter in parameters if parameter not in _NOT_OPTIONS]
    for option in options:
        if option not in parameters and option != "config_name":
            raise ValueError(
                f"Options of {name!r} must be among {', '.join(known) or '(there is none)'}, got {option!r}."
                f"{closest(option, known)}"
            )
    with _writable_cache(cache_dir, data_dir):
        return builder_class(cache_dir=None if cache_dir is None else str(cache_dir), data_dir=data_dir, **options)


def load_anomaly_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    category: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> "datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict":
    """Load a data set in the columns `image`, `mask`, `label`, `category`, `defect_type`, `image_id`, `split`.

    (`conversations` has `image`, `messages`, `image_id`, `split`.) The files are checked first; what is wrong with
    them is raised with what to do. Prepared data stand in the cache of `datasets`, made (and checked) anew when a file
    changes.

    Args:
        name (`str`): One of `DATASET_NAMES`.
        data_dir (`str` or `os.PathLike`, *optional*): Folder that holds the files; `rendered_parts` and `cad_parts`
            need none.
        category (`str`, *optional*): The only category to read; `None` reads all.
        split (`str`, *optional*): `train`, `validation` or `test`, or (prepared) an expression such as `test[:10]`;
            `None` gives all.
        streaming (`bool`, defaults to `False`): Read the pictures as they are asked for, without preparing anything.
        cache_dir (`str` or `os.PathLike`, *optional*): Folder of the prepared data.
        options: What else the builder's configuration takes, e.g. `protocol` (`visa`), `with_regions` (`mvtec_loco`).

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`; without `split` the dictionary of all splits.

    Raises:
        ValueError: If a name, option or split is unknown, or files contradict each other.
        FileNotFoundError: If the folder or files in it are missing.
    """
    builder = load_builder(name, data_dir, category, cache_dir, **options)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    with _writable_cache(cache_dir, data_dir):
        builder.download_and_prepare()
    return builder.as_dataset(split=split)


@contextlib.contextmanager
def _writable_cache(cache_dir: str | os.PathLike | None, data_dir: str | os.PathLike | None) -> Iterator[None]:
    """Says where prepared data may go where they cannot be written (a user without a home, a full disk).

    What a builder says of its own files is raised as it is, not as an error of the generation.
    """
    folder = os.path.expanduser(str(cache_dir or datasets.config.HF_DATASETS_CACHE))
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error
    except OSError as error:
        reading = data_dir is not None and str(error.filename).startswith(os.path.abspath(data_dir))
        if reading or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC):
            raise
        raise type(error)(
            error.errno,
            f"Prepared data sets cannot be written ({error.strerror}). Set HF_HOME or HF_DATASETS_CACHE to a folder "
            "of yours with room, or pass `cache_dir`",
            folder,
        ) from error
