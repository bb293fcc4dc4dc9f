"""What an inspection leaves on disk: overlays, maps, `results.csv` and a self-contained `report.html`.

Everything that is shown of a picture is made when it is judged, from the pixels that were judged; a picture is opened
again only where a run ended between the two and the file has not changed since. (`results.jsonl` is written by the
inspector, line by line, as results come.)
"""

import base64
import csv
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..errors import describe_error
from ..files import append_json_line, json_line, read_json_lines, write_atomically
from ..images import PictureError, load_picture
from ..prompts import check_language
from ..regions import Region, position_words
from ..results import InspectionResult, source_of
from .overlays import corners, draw_overlay, encoded, map_layer
from .page import render_page

CSV_COLUMNS = (
    "image", "verdict", "pred_score", "log_odds", "probability", "num_regions", "regions", "area_pixels", "area_mm2",
    "answer", "seconds", "error", "category", "localization", "num_references", "region_threshold",
)  # fmt: skip
"""Columns of `results.csv`."""

MAX_LISTED_REGIONS = 12
"""Regions drawn and listed for each picture in the report; all of them are in `results.jsonl`."""

MAX_SHOWN_REFERENCES = 12
SHOWN_FILE = "pictures.jsonl"
"""What the report shows of each picture, kept for `--resume`."""

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
    """Collects results one after the other and writes the files of an inspection.

    Args:
        folder (`str` or `os.PathLike`): Where to; must exist. Files: `overlays/<name>.png`, `maps/<name>.npy`
            (float16, in the original picture's pixels, with `save_maps`), `pictures.jsonl`, `results.csv`,
            `report.html`.
        region_threshold (`float`): Middle of the colour scale where the evidence of a result names none.
        num_pictures (`int`): How many are expected; the more, the smaller they are shown.
        language (`str`, *optional*, defaults to `"en"`): Of the report's own words, `"en"` or `"zh"`.
        setup (`Mapping[str, str]`, *optional*): How it was inspected: label to value, shown as given.
        versions (`Mapping[str, str]`, *optional*): What it was inspected with.
        references (`Sequence[str]`, *optional*): Paths of the good pictures.
        save_maps (`bool`, *optional*, defaults to `False`): Whether the maps are written.
        resume (`bool`, *optional*, defaults to `False`): Whether results taken over from an earlier run are shown as
            they were then.
        bits (`int`, *optional*): Depth of deep references, see `bit_depth`.

    Example:
    ```python
    report = InspectionReport("results", inspector.region_threshold, num_pictures=len(pictures))
    for name, result in zip(names, inspector.inspect_many(pictures)): report.add(result, name)
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
        resume: bool = False,
        bits: int | None = None,
    ):
        check_language(language)
        self.folder = pathlib.Path(folder)
        self.region_threshold = region_threshold
        self.language = language
        self.setup = dict(setup or {})
        self.versions = dict(versions or {})
        self.references, self._bits = list(references), bits
        self.save_maps, self.num_without_map = save_maps, 0  # of earlier results whose map was not kept
        sizes = next(sizes for limit, *sizes in _SIZES if num_pictures <= limit)
        self.side, self.map_side, self.max_pairs = sizes
        self.results: list[InspectionResult] = []
        self._entries: list[dict[str, Any]] = []
        self._reference: tuple[int, Image.Image | None] = (-1, None)  # the one opened last: they may be large
        self._reference_states = [source_of(path) for path in self.references]
        first = [(path, _opened(path, bits)) for path in self.references[:MAX_SHOWN_REFERENCES]]
        self._references = [(path, _jpeg(picture, 160)) for path, picture in first if picture is not None]
        self._shown_file = self.folder / SHOWN_FILE
        self._earlier = _kept(self._shown_file) if resume else {}
        # Rewritten rather than appended to: a last line cut off by a kill must not swallow the next one.
        write_atomically(self._shown_file, b"".join(map(json_line, self._earlier.values())))

    def add(self, result: InspectionResult, name: str, picture: Image.Image | None = None) -> None:
        """Writes a result's overlay (and map) and keeps what the report needs of it; map and tensors are let go.

        Args:
            result (`InspectionResult`): Of one picture. What was kept of it is shown when it is taken over from an
                earlier run.
            name (`str`): Names its files; different for each picture (see `distinct_names`).
            picture (`PIL.Image.Image`, *optional*): The picture that was judged; default: that of the result.

        Raises:
            OSError: If a file cannot be written.
        """
        picture = result.judged_image if picture is None else picture
        digest = _digest(result)
        entry: dict[str, Any] = dict.fromkeys(("file", "picture", "map", "size"))
        entry |= {"threshold": result.evidence.get("region_threshold", self.region_threshold)}
        # Regions are listed whether or not there is a picture to draw them on.
        entry |= {"lines": [""] * len(result.regions[:MAX_LISTED_REGIONS]), "pairs": []}
        earlier, resumed = self._earlier.get(result.image or "", {}), bool(result.evidence.get("resumed"))
        is_kept = earlier.get("row") == digest and entry.keys() <= earlier.keys()
        if resumed and self.save_maps and not (self.folder / "maps" / f"{name}.npy").exists():
            self.num_without_map += 1
        if resumed and not is_kept:  # the earlier run ended between the result and what is shown of it
            again = _opened(result.image, self._bits)
            picture = again if source_of(result.image) == result.source else None
        if resumed and is_kept:
            entry = {key: earlier[key] for key in entry}
        elif picture is not None and result.error is None:
            try:
                entry |= self._shown(result, name, picture)
            except (ValueError, ArithmeticError, cv2.error) as error:  # one odd picture must not end the run
                warnings.warn(f"{result.image!r} is not shown in the report: {describe_error(error)}", stacklevel=2)
            else:
                if result.image:
                    append_json_line(self._shown_file, {"image": result.image, "row": digest} | entry)
        self._entries.append(entry)
        # A copy without the map and the tensors: thousands of results must fit into memory.
        self.results.append(InspectionResult.from_dict(result.to_dict()))

    def write(self) -> pathlib.Path:
        """Writes `results.csv` and `report.html`; returns the path of the page."""
        write_csv(self.results, self.folder / "results.csv", self.language)
        page = render_page(
            results=self.results,
            entries=self._entries,
            language=self.language,
            setup=self.setup,
            versions=self.versions,
            references=self._references,
            num_references=len(self.references),
        )
        self._reference = (-1, None)
        write_atomically(self.folder / "report.html", page)
        return self.folder / "report.html"

    def _shown(self, result: InspectionResult, name: str, picture: Image.Image) -> dict[str, Any]:
        """What the page shows of a picture; writes its overlay and map."""
        threshold = result.evidence.get("region_threshold", self.region_threshold)
        found = {
            "size": list(picture.size),
            "picture": _jpeg(picture, self.side),
            "lines": [_line(region, max(picture.size)) for region in result.regions[:MAX_LISTED_REGIONS]],
            "pairs": [self._pair(picture, region) for region in result.regions[: self.max_pairs]],
        }
        if result.anomaly_map is None:
            return found
        overlay = draw_overlay(picture, result.anomaly_map, result.regions, threshold)
        _write(self.folder / "overlays" / f"{name}.png", encoded(overlay, compress_level=4))
        if self.save_maps:
            buffer = io.BytesIO()
            np.save(buffer, result.anomaly_map.astype(np.float16))
            _write(self.folder / "maps" / f"{name}.npy", buffer.getvalue())
        layer = map_layer(result.anomaly_map, threshold, self.map_side)
        return found | {"file": f"overlays/{name}.png", "map": _data_uri(layer, "PNG", optimize=True)}

    def _pair(self, picture: Image.Image, region: Region) -> list[str] | None:
        """A region and the good patch most like it, at one scale, as addresses of small pictures."""
        nearest = region.nearest_good
        if nearest is None or nearest["reference"] >= len(self.references):
            return None
        number = nearest["reference"]
        if self._reference[0] != number:
            path = self.references[number]
            unchanged = source_of(path) == self._reference_states[number]
            self._reference = number, _opened(path, self._bits) if unchanged else None
        good = self._reference[1]
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


def write_csv(
    results: Sequence[InspectionResult],
    path: str | os.PathLike,
    language: str = "en",
    said: Sequence[str | None] | None = None,
) -> None:
    """Writes results as a table that spreadsheets open: one row a picture, positions in words of the language.

    UTF-8 with a byte-order mark, without which Excel reads Chinese as garbage; Python reads it as `"utf-8-sig"`. Texts
    that a spreadsheet would take for a formula get an apostrophe before them, also after a `;`, where a German or
    French one begins a new cell. What a person said of each result, where it is given, is the last column.
    """
    columns = CSV_COLUMNS if said is None else (*CSV_COLUMNS, "said")
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for result, word in zip(results, said or [None] * len(results), strict=True):
        areas = [region.area_mm2 for region in result.regions if region.area_mm2 is not None]
        row = result.to_dict() | {
            "probability": result.evidence.get("yes_probability"),
            "num_regions": len(result.regions),
            "regions": regions_in_words(result.regions, language),
            "area_pixels": sum(region.area_pixels for region in result.regions),
            "area_mm2": round(sum(areas), 4) if areas else None,
            "said": word,
        }
        row |= {key: result.evidence.get(key) for key in ("localization", "num_references", "region_threshold")}
        writer.writerow([_cell(row[column]) for column in columns])
    write_atomically(path, "\ufeff" + buffer.getvalue())


def regions_in_words(regions: Sequence[Region], language: str = "en", limit: int | None = None) -> str:
    """Where regions lie, each place once and at most `limit` of them: `"top left (2), center"`."""
    counts: dict[str, int] = {}
    for region in regions:
        place = position_words(region, language)
        counts[place] = counts.get(place, 0) + 1
    places = [place if count == 1 else f"{place} ({count})" for place, count in counts.items()]
    rest = " ..." if len(places[:limit]) < len(places) else ""
    return ("、" if language == "zh" else ", ").join(places[:limit]) + rest


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return re.sub(r'(^|;)(?=[\s"]*[=+@-])', r"\1'", " ".join(value.split()))


def _digest(result: InspectionResult) -> str:
    """Names a row of `results.jsonl`, so that what is shown belongs to it."""
    row = result.to_dict()
    row["evidence"] = {key: value for key, value in row["evidence"].items() if key != "resumed"}
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _kept(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What an earlier run has kept of each picture; an overlay belongs to the picture that was written last."""
    rows = read_json_lines(path) if path.exists() else []
    owners = {row.get("file"): row.get("image") for row in rows}
    return {
        row.get("image"): row | ({} if owners[row.get("file")] == row.get("image") else {"file": None}) for row in rows
    }


def _opened(path: str, bits: int | None) -> Image.Image | None:
    """The picture, or nothing where it is no picture (a memory bank among the references)."""
    try:
        return load_picture(path, bits)
    except (PictureError, OSError):
        return None


def _line(region: Region, longest_side: int) -> str:
    """The outline as points of an SVG polygon, without corners that cannot be seen."""
    points = np.int32(region.outline or corners(region))
    simple = cv2.approxPolyDP(points, longest_side / 800, True).reshape(-1, 2)
    return " ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in simple.tolist())


def _detail(picture: Image.Image, x: float, y: float, side: float) -> Image.Image:
    """The square around a point, moved inside the picture."""
    side = min(max(8, side), *picture.size)
    left, top = (min(max(0, at - side / 2), end - side) for at, end in zip((x, y), picture.size, strict=True))
    box = (left, top, left + side, top + side)
    return picture.resize((_PAIR_SIDE, _PAIR_SIDE), Image.Resampling.BICUBIC, box=box)


def _jpeg(picture: Image.Image, side: int) -> str:
    smaller = picture.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _data_uri(smaller, "JPEG", quality=82 if side > 300 else 74, optimize=True)


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    return f"data:image/{kind.lower()};base64," + base64.b64encode(encoded(picture, kind, **options)).decode("ascii")


def _write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
