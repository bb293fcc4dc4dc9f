"""Adapters: folders that hold what was trained and name the checkpoint it was trained from.

`AutoModelForImageTextToText.from_pretrained(adapter)` loads them as well; here the embedded checkpoint is also found
where the package lies in another place than on the machine of the training.
"""

import json
import os
import pathlib

from transformers.utils import cached_file

ADAPTER_CONFIG = "adapter_config.json"
_EMBEDDED = "anomalygpt_tiny"


def adapter_base(source: str | os.PathLike) -> str | None:
    r"""
    Which checkpoint an adapter belongs to.

    Args:
        source (`str` or `os.PathLike`):
            Folder or Hub id.

    Returns:
        `str`: Folder or Hub id of the checkpoint; `None` when `source` is no adapter.

    Raises:
        ValueError: If the adapter names no checkpoint, **or** a folder that does not exist.
    """
    if os.path.isdir(source):
        found = os.path.join(source, ADAPTER_CONFIG)
        if not os.path.isfile(found) or os.path.isfile(os.path.join(source, "config.json")):
            return None
    else:
        quiet = ("gated_repo", "missing_entries", "connection_errors")
        found = cached_file(str(source), ADAPTER_CONFIG, **{f"_raise_exceptions_for_{kind}": False for kind in quiet})
        if found is None:
            return None
    try:
        base = json.loads(pathlib.Path(found).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{found!r} is not readable JSON: {error}. Save the adapter again.") from error
    if not base:
        raise ValueError(
            f"The adapter {str(source)!r} must name its checkpoint as `base_model_name_or_path`, got {base!r}. "
            f"Write it into {ADAPTER_CONFIG}."
        )
    looks_local = os.path.isabs(base) or base.startswith((".", "~")) or base.count("/") > 1
    if looks_local and not os.path.isdir(base):
        embedded = pathlib.Path(__file__).parent / _EMBEDDED
        if pathlib.PurePath(base).name == _EMBEDDED and embedded.is_dir():
            return str(embedded)
        raise ValueError(
            f"The adapter {str(source)!r} was trained from {base!r}, which does not exist here. Copy that checkpoint, "
            f"or write where it is into {ADAPTER_CONFIG}."
        )
    return base


__all__ = ["ADAPTER_CONFIG", "adapter_base"]
