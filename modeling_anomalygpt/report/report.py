"""What an inspection leaves on disk: overlays, maps, `results.csv` and a self-contained `report.html`.

Knows results and files; knows no model. (`results.jsonl` is written by the inspector, line by line, as results come.)
"""

import base64
import csv
import io
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..files import write_atomically
from ..images import PictureError, load_picture
from ..prompts import check_language
from ..regions import Region, position_words
from ..results import InspectionResult
from .overlays import draw_overlay, map_layer
from .page import render_page

CSV_COLUMNS = (
    "image", "verdict", "pred_score", "log_odds", "probability", "num_regions", "regions", "area_pixels", "area_mm2",
    "answer", "seconds", "error", "category", "localization", "num_references", "region_threshold",
)  # fmt: skip
"""Columns of `results.csv`."""

MAX_LISTED_REGIONS = 12
"""Regions drawn and listed for each picture in the report; all of them are in `results.jsonl`."""

MAX_SHOWN_REFERENCES = 12

# Side in pixels of a region's detail beside the good patch most like it.
_PAIR_SIDE = 96

# Longest sides of photographs and maps inside the report, and regions shown in detail, by the number of pictures: with
# thousands of them, one takes 10 to 25 KB, which keeps the report quick to open.
_SIZES = (
    (60, 800, 192, 3),
    (300, 560, 160, 3),
    (1000, 400, 128, 2),
    (2500, 280, 96, 1),
    (sys.maxsize, 200, 80, 1),
)


class InspectionReport:
    r"""
    Collects results one after the other and writes the files of an inspection.

    Args:
        folder (`str` or `os.PathLike`):
            Where to; must exist. Files: `overlays/<name>.png`, `maps/<name>.npy` (float16, in the original picture's
            pixels, with `save_maps`), `results.csv`, `report.html`.
        region_threshold (`float`):
            Middle of the colour scale, the same for all pictures, where the evidence of results names none.
        num_pictures (`int`):
            How many are expected; the more, the smaller they are shown.
        language (`str`, *optional*, defaults to `"en"`):
            Of the report's own words, `"en"` or `"zh"`.
        setup (`Mapping[str, str]`, *optional*):
            How it was inspected: label to value, shown as given.
        versions (`Mapping[str, str]`, *optional*):
            What it was inspected with.
        references (`Sequence[str]`, *optional*):
            Paths of the good pictures.
        save_maps (`bool`, *optional*, defaults to `False`):
            Whether the maps are written.

    Example:
    ```python
    report = InspectionReport("results", inspector.region_threshold, num_pictures=len(pictures))
    for name, result in zip(names, inspector.inspect_many(pictures)):
        report.add(result, name)
    report.write()
    ```
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        region_threshold: float,
        num_pictures: int,
        language: str = "en",
        setup: Mapping[str, str] | None = None,
        versions: Mapping[str, str] | None = None,
        references: Sequence[str] = (),
        save_maps: bool = False,
    ):
        check_language(language)
        self.folder = pathlib.Path(folder)
        self.region_threshold = region_threshold
        self.language = language
        self.setup = dict(setup or {})
        self.versions = dict(versions or {})
        self.references = list(references)
        self.save_maps = save_maps
        sizes = next(sizes for limit, *sizes in _SIZES if num_pictures <= limit)
        self.side, self.map_side, self.max_pairs = sizes
        self.results: list[InspectionResult] = []
        self._entries: list[dict[str, Any]] = []
        self._good: dict[int, Image.Image | None] = {}

    def add(self, result: InspectionResult, name: str, picture: Image.Image | None = None) -> None:
        """Writes a result's overlay (and map) and keeps what the report needs of it; map and tensors are let go.

        Args:
            result (`InspectionResult`): Of one picture. Without a map (an error, or taken over from an earlier run)
                the overlay and map of the earlier run are used, where they exist.
            name (`str`): Names its files; different for each picture (see `distinct_names`).
            picture (`PIL.Image.Image`, *optional*): The picture, where it is no file or already open.

        Raises:
            OSError: If a file cannot be written.
        """
        overlay_file = self.folder / "overlays" / f"{name}.png"
        map_file = self.folder / "maps" / f"{name}.npy"
        entry: dict[str, Any] = dict.fromkeys(("file", "picture", "map", "blended", "size"))
        entry |= {"lines": [], "pairs": []}
        self.region_threshold = result.evidence.get("region_threshold", self.region_threshold)
        if result.error is None:
            picture = picture if picture is not None else _opened(result.image)
        anomaly_map = result.anomaly_map if result.anomaly_map is not None else _kept_map(map_file, result, picture)
        if picture is not None:
            entry |= {"size": list(picture.size), "picture": _jpeg(picture, self.side)}
            entry["lines"] = [_line(region, max(picture.size)) for region in result.regions[:MAX_LISTED_REGIONS]]
            entry["pairs"] = [self._pair(picture, region) for region in result.regions[: self.max_pairs]]
            if anomaly_map is not None:
                overlay = draw_overlay(picture, anomaly_map, result.regions, self.region_threshold)
                _write(overlay_file, _encoded(overlay, "PNG", compress_level=4))
                entry["map"] = _data_uri(
                    map_layer(anomaly_map, self.region_threshold, self.map_side), "PNG", optimize=True
                )
            elif overlay_file.exists() and (kept := _opened(overlay_file)) is not None:
                height = round(kept.width * picture.height / picture.width)  # without the legend below
                entry["blended"] = _jpeg(kept.crop((0, 0, kept.width, min(height, kept.height))), self.side)
            entry["file"] = f"overlays/{name}.png" if entry["map"] or entry["blended"] else None
        if self.save_maps and result.anomaly_map is not None:
            buffer = io.BytesIO()
            np.save(buffer, result.anomaly_map.astype(np.float16))
            _write(map_file, buffer.getvalue())
        self._entries.append(entry)
        # A copy without the map and the tensors: thousands of results must fit into memory.
        self.results.append(InspectionResult.from_dict(result.to_dict()))

    def _pair(self, picture: Image.Image, region: Region) -> list[str] | None:
        """A region and the good patch most like it, at one scale, as addresses of small pictures."""
        nearest = region.nearest_good
        if nearest is None or nearest["reference"] >= len(self.references):
            return None
        number = nearest["reference"]
        if number not in self._good:
            self._good = {number: _opened(self.references[number])}  # one at a time: references may be large
        good = self._good[number]
        if good is None:
            return None
        x0, y0, x1, y1 = nearest["box"]
        side = max(1.4 * max(region.width, region.height), 0.12 * max(picture.size))
        scale = max(good.size) / max(picture.size)
        details = (
            (picture, *region.centroid, side),
            (good, (x0 + x1) / 2 * good.width, (y0 + y1) / 2 * good.height, side * scale),
        )
        return [_jpeg(_detail(*detail), _PAIR_SIDE) for detail in details]

    def write(self) -> pathlib.Path:
        """Writes `results.csv` and `report.html`.

        Returns:
            `pathlib.Path`: Of the report.
        """
        write_csv(self.results, self.folder / "results.csv", self.language)
        pictures = [(path, _opened(path)) for path in self.references[:MAX_SHOWN_REFERENCES]]
        page = render_page(
            results=self.results,
            entries=self._entries,
            region_threshold=self.region_threshold,
            language=self.language,
            setup=self.setup,
            versions=self.versions,
            references=[(path, _jpeg(picture, 160)) for path, picture in pictures if picture is not None],
            num_references=len(self.references),
        )
        path = self.folder / "report.html"
        self._good.clear()  # a page that keeps its report keeps no decoded picture
        write_atomically(path, page)
        return path


def write_csv(results: Sequence[InspectionResult], path: str | os.PathLike, language: str = "en") -> None:
    """Writes results as a table that spreadsheets open: UTF-8 with a mark, one row a picture.

    Texts that a spreadsheet would take for a formula get an apostrophe before them.

    Args:
        results (`Sequence[InspectionResult]`): In the order of the rows.
        path (`str` or `os.PathLike`): The file.
        language (`str`, *optional*, defaults to `"en"`): Of the positions.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(CSV_COLUMNS)
    for result in results:
        areas = [region.area_mm2 for region in result.regions if region.area_mm2 is not None]
        row = result.to_dict() | {
            "probability": result.evidence.get("yes_probability"),
            "num_regions": len(result.regions),
            "regions": regions_in_words(result.regions, language),
            "area_pixels": sum(region.area_pixels for region in result.regions),
            "area_mm2": round(sum(areas), 4) if areas else None,
        }
        row |= {key: result.evidence.get(key) for key in ("localization", "num_references", "region_threshold")}
        writer.writerow([_cell(row[column]) for column in CSV_COLUMNS])
    write_atomically(path, "\ufeff" + buffer.getvalue())


def regions_in_words(regions: Sequence[Region], language: str = "en", limit: int | None = None) -> str:
    """Where regions lie, in words, each place once, the most anomalous first.

    Args:
        regions (`Sequence[Region]`): In their order.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.
        limit (`int`, *optional*): Most places named.

    Returns:
        `str`: Such as `"top left (2), center"`; empty without regions.
    """
    counts: dict[str, int] = {}
    for region in regions:
        place = position_words(region, language)
        counts[place] = counts.get(place, 0) + 1
    places = [place if count == 1 else f"{place} ({count})" for place, count in counts.items()]
    shown = places[:limit]
    return ("、" if language == "zh" else ", ").join(shown) + (" ..." if len(shown) < len(places) else "")


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _opened(path: str | os.PathLike | None) -> Image.Image | None:
    """The picture, or nothing where it is gone or no picture (a memory bank among the references)."""
    try:
        return None if path is None else load_picture(path)
    except (PictureError, OSError):
        return None


def _kept_map(path: pathlib.Path, result: InspectionResult, picture: Image.Image | None) -> np.ndarray | None:
    """The map that an earlier run wrote for a result taken over from it."""
    if picture is None or not result.evidence.get("resumed"):
        return None
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept.astype(np.float32) if kept.shape == (picture.height, picture.width) else None


def _line(region: Region, longest_side: int) -> str:
    """The outline as points of an SVG polygon, without corners that cannot be seen."""
    x0, y0, x1, y1 = region.box
    points = np.int32(region.outline or [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)])
    simple = cv2.approxPolyDP(points, longest_side / 800, True).reshape(-1, 2)
    return " ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in simple.tolist())


def _detail(picture: Image.Image, x: float, y: float, side: float) -> Image.Image:
    """The square around a point, moved inside the picture."""
    side = max(8, min(side, *picture.size))
    left, top = (min(max(0, at - side / 2), end - side) for at, end in zip((x, y), picture.size, strict=True))
    box = (left, top, left + side, top + side)
    return picture.resize((_PAIR_SIDE, _PAIR_SIDE), Image.Resampling.BICUBIC, box=box)


def _jpeg(picture: Image.Image, side: int) -> str:
    smaller = picture.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _data_uri(smaller, "JPEG", quality=82 if side > 300 else 74, optimize=True)


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    return f"data:image/{kind.lower()};base64," + base64.b64encode(_encoded(picture, kind, **options)).decode("ascii")


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)


__all__ = ["CSV_COLUMNS", "InspectionReport", "regions_in_words", "write_csv"]
