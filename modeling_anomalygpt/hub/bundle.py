"""A bundle, what `anomalygpt export` writes: the file of a runtime, the references, a description with checksums.

Reads and checks files; knows no model and no runtime.
"""

import hashlib
import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

from .runtimes import RUNTIMES

_MAX_DESCRIPTION = 2**20


class BundleError(ValueError):
    """A bundle that should not go to the line; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are as they were exported.

    Args:
        file (`pathlib.Path`): What the runtime reads.
        references (`pathlib.Path`, *optional*): What [`AnomalyInspector.load_references`] reads.
        description (`dict`): What `NAME.json` says.
        size (`int`): Bytes of all its files.
    """

    file: pathlib.Path
    references: pathlib.Path | None
    description: dict[str, Any]
    size: int


def file_facts(path: str | os.PathLike) -> dict[str, Any]:
    """By what a file is known again: `{"bytes": its size, "sha256": its checksum}`."""
    with open(path, "rb") as file:
        return {"bytes": os.path.getsize(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_bundle(place: str | os.PathLike) -> Bundle:
    """Reads a bundle and checks that each of its files is there and as it was exported.

    Args:
        place (`str` or `os.PathLike`): A folder with one bundle, or the description or the runtime's file of one.

    Returns:
        [`Bundle`]

    Raises:
        BundleError: If there is none, more than one **or** one that has replaced it; if a file is missing, cut off or
            changed.
    """
    named = _description_file(pathlib.Path(place))
    description = _read_description(named)
    if description is None:
        raise BundleError(f"{str(named)!r} does not describe an export. Give what `anomalygpt export` wrote.")
    files = description.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.items())):
        raise BundleError(f"{str(named)!r} has no checksums: an earlier version wrote it. Export again.")
    for name, facts in files.items():
        _check_file(named.with_name(name), facts)
    runtime = [name for name in files if pathlib.PurePath(name).suffix in RUNTIMES]
    if len(runtime) != 1:
        raise BundleError(f"{str(named)!r} must name one file for a runtime, got {len(runtime)}. Export again.")
    given = pathlib.Path(place)
    if given.suffix in RUNTIMES and given.name != runtime[0]:
        raise BundleError(
            f"{str(named)!r} describes {runtime[0]}, not {given.name}: a later export had the same name. Export it "
            "again under a name of its own."
        )
    references = [named.with_name(name) for name in files if name.endswith(".safetensors")]
    size = sum(facts["bytes"] for facts in files.values())
    return Bundle(named.with_name(runtime[0]), references[0] if references else None, description, size)


def _description_file(place: pathlib.Path) -> pathlib.Path:
    if place.is_dir():
        found = [one for one in sorted(place.glob("*.json")) if _read_description(one) is not None]
        if len(found) != 1:
            names = f" ({', '.join(one.name for one in found[:5])})" if found else ""
            raise BundleError(
                f"`BUNDLE` must be a folder with one export, got {len(found)} in {str(place)!r}{names}. Name one file."
            )
        return found[0]
    named = place.with_suffix(".json")
    if not named.is_file():
        raise BundleError(
            f"There is no bundle {str(place)!r}. Give the folder or file that `anomalygpt export` wrote."
        )
    return named


def _read_description(path: pathlib.Path) -> dict[str, Any] | None:
    """What the file says; `None` where it describes no export."""
    try:
        if path.stat().st_size > _MAX_DESCRIPTION:
            return None
        read = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    is_export = isinstance(read, dict) and isinstance(read.get("outputs"), dict) and "anomaly_map" in read["outputs"]
    return read if is_export else None


def _is_entry(entry: tuple[Any, Any]) -> bool:
    """Whether it is the plain name of a file with its facts: a name cannot lead out of the folder."""
    name, facts = entry
    is_plain = name not in ("", ".", "..") and not set(name) & set("/\\\0")
    return (
        is_plain
        and isinstance(facts, dict)
        and type(facts.get("bytes")) is int
        and isinstance(facts.get("sha256"), str)
    )


def _check_file(path: pathlib.Path, facts: dict[str, Any]) -> None:
    if not path.is_file():
        raise BundleError(f"The bundle lacks {str(path)!r}. Copy it whole.")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise BundleError(f"{str(path)!r} must have {facts['bytes']} bytes, got {size}. Copy the bundle again.")
    if file_facts(path)["sha256"] != facts["sha256"]:
        raise BundleError(f"{str(path)!r} is not as it was exported: its checksum differs. Copy the bundle again.")


__all__ = ["Bundle", "BundleError", "file_facts", "read_bundle"]
