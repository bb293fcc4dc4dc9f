"""`anomalygpt synthesize`: made defects on good pictures, as a folder to train or test with or as a sheet to look at.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import json
import pathlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from .options import count, named_pictures, whole

_LOG = "synthesis.jsonl"
_DEFAULT_NUMBER, _DEFAULT_COLUMNS = 100, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt synthesize`."""
    parser.add_argument("pictures", nargs="*", metavar="GOOD", help="good pictures: files, folders, quoted patterns")
    family = "rendered products instead of pictures, such as gear; all for all"
    parser.add_argument("--family", nargs="+", metavar="NAME", help=family)
    parser.add_argument("--sources", nargs="+", metavar="PATH", help="pictures to take patches and textures from")
    methods = "what to make, drawn by weight (default: one of each)"
    parser.add_argument("--methods", nargs="+", metavar="NAME[=WEIGHT]", help=methods)
    category = "what the pictures show; MVTec AD's names have own settings"
    parser.add_argument("--category", metavar="NAME", help=category)
    number = f"pictures with a defect (default: {_DEFAULT_NUMBER}); columns of a sheet (default: {_DEFAULT_COLUMNS})"
    parser.add_argument("--number", type=count, metavar="N", help=number)
    parser.add_argument("--good", type=whole(0), default=0, metavar="N", help="pictures in test/good (default: 0)")
    size = whole(64, "; 224 is what most models see")
    size_help = "shrink the short side to it first; of rendered pictures: 224"
    parser.add_argument("--size", type=size, metavar="PIXELS", help=size_help)
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="another seed, other defects")
    output = parser.add_argument_group("output")
    where = output.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="folder to write, in the layout of MVTec AD")
    where.add_argument("--sheet", metavar="FILE.png", help="contact sheet to write instead, defects outlined")
    output.add_argument("--resume", action="store_true", help="keep the finished pictures of an interrupted run")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt synthesize`; returns the exit code."""
    if bool(args.pictures) == bool(args.family):
        raise ValueError(
            "Name good pictures, or --family (not both). Try `anomalygpt synthesize good/ --sheet look.png`."
        )
    if args.sheet and pathlib.Path(args.sheet).suffix.lower() != ".png":
        raise ValueError(f"`--sheet` must end with .png, got {args.sheet!r}. Name a file such as look.png.")
    if args.family and (args.sources or args.category):
        raise ValueError("`--sources` and `--category` are for photographs. Leave them out with --family.")
    if args.sheet and (args.resume or args.good):
        raise ValueError("`--resume` and `--good` are for --output. Leave them out with --sheet.")
    maker = _maker(args)
    return _write_sheet(args, maker) if args.sheet else _write_folder(args, maker)


def _maker(args: argparse.Namespace) -> Any:
    from .made_pictures import PHOTOGRAPH_DEFAULT, Photographs, Renderings, parse_methods

    weights = parse_methods(args.methods or ())
    if args.family:
        return Renderings(_families(args.family), weights, args.size or 224, args.seed)
    files = named_pictures(args, "PICTURE", args.pictures, args.output)
    sources = named_pictures(args, "--sources", args.sources, args.output)
    weights = weights or dict.fromkeys(PHOTOGRAPH_DEFAULT, 1.0)
    return Photographs(files, sources, weights, args.category, args.size, args.seed)


def _families(names: list[str]) -> list[str]:
    from datasets_scripts.rendering.products import FAMILIES

    from ..errors import did_you_mean

    if names == ["all"]:
        return list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            hint = did_you_mean(name, FAMILIES)
            raise ValueError(f"`--family` must be all or among {', '.join(FAMILIES)}, got {name!r}.{hint}")
    return list(dict.fromkeys(names))


def _progress(items: Any, description: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, desc=description, unit="picture", disable=not sys.stderr.isatty(), leave=False)


def _write_sheet(args: argparse.Namespace, maker: Any) -> int:
    from ..files import write_atomically
    from ..report.overlays import encoded
    from ..synthesis.contact_sheet import SheetCell, contact_sheet

    def cell(made: Any) -> SheetCell:
        return SheetCell(made.image, made.defect_type, made.mask)

    columns, families = args.number or _DEFAULT_COLUMNS, len(maker.categories)
    if args.family:
        jobs = [(maker.categories[at % families], (at,)) for at in range(columns * families)]
        rows = [(name, [cell(maker.good(at))]) for at, name in enumerate(maker.categories)]
    else:
        jobs = [(name, (at, name)) for name in maker.methods for at in range(columns)]
        rows = [("good pictures", [cell(maker.good(at)) for at in range(columns)])]
        rows += [(name, []) for name in maker.methods]
    cells = dict(rows)
    for name, which in _progress(jobs, "sheet"):
        cells[name].append(cell(maker.make(*which)))
    path = pathlib.Path(args.sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(rows)
    write_atomically(path, encoded(sheet))
    print(f"{path}: {len(rows)} rows, {sheet.width} x {sheet.height} pixels")
    return 0


def _write_folder(args: argparse.Namespace, maker: Any) -> int:
    folder = pathlib.Path(args.output)
    number = args.number or _DEFAULT_NUMBER
    deciding = ("category", "family", "methods", "pictures", "seed", "size", "sources")  # what a picture shows
    settings = {name: getattr(args, name) for name in deciding}
    log = _Log(folder, settings, args.resume)
    jobs = [("defect", index, maker.make) for index in range(number)]
    jobs += [("good", index, maker.good) for index in range(args.good * len(maker.categories))]
    try:
        for kind, index, make in _progress(jobs, "synthesize"):
            if (kind, index) not in log.finished:
                log.append(_write_picture(folder, kind, index, make))
    except KeyboardInterrupt:
        print(
            f"\nanomalygpt synthesize: interrupted after {len(log.finished)} of {len(jobs)} pictures. "
            "The same command with --resume goes on.",
            file=sys.stderr,
        )
        return 130
    kinds = Counter(row["defect_type"] for row in log.finished.values())
    print(f"{folder}: {len(jobs)} pictures ({', '.join(f'{number} {kind}' for kind, number in kinds.most_common())})")
    if any(row["job"] == "defect" and row["defect_type"] == "good" for row in log.finished.values()):
        print("Where no visible defect could be made, the picture stands in test/good.")
    print(f'Load them with load_anomaly_dataset("anomaly_folder", data_dir={str(folder)!r}).')
    return 0


def _write_picture(folder: pathlib.Path, job: str, index: int, make: Callable[[int], Any]) -> dict[str, Any]:
    """Writes the mask, then the picture; returns the line of the log."""
    from PIL import Image

    from ..files import write_atomically
    from ..report.overlays import encoded

    made = make(index)
    place = pathlib.PurePosixPath(made.category or "")
    stem = f"good_{index:05d}" if job == "good" else f"{index:05d}"
    files = {"mask": None, "image": str(place / "test" / made.defect_type / f"{stem}.png")}
    if made.defect_type != "good":
        files["mask"] = str(place / "ground_truth" / made.defect_type / f"{stem}_mask.png")
    pictures = {"mask": made.mask.astype("uint8") * 255, "image": made.image}
    for name, file in files.items():
        if file is not None:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encoded(Image.fromarray(pictures[name])))
    return {"job": job, "index": index, **files, "defect_type": made.defect_type, "origin": made.origin}


class _Log:
    """One line of settings, then one a finished picture; readable after a kill."""

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any], resume: bool):
        from ..files import json_line, read_json_lines, write_atomically

        self.path = folder / _LOG
        self.finished: dict[tuple[str, int], dict[str, Any]] = {}
        resume = resume and self.path.is_file()
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            raise FileExistsError(
                f"`--output` must be a new or empty folder, got {str(folder)!r}. "
                "Choose another, or add --resume to go on with an interrupted run."
            )
        rows = read_json_lines(self.path) if resume else []
        if rows and rows[0].get("settings") != json.loads(json.dumps(settings)):
            before = rows[0].get("settings") or {}
            changed = [f"--{name}" for name in settings if before.get(name) != settings[name]]
            raise ValueError(
                f"`--resume` must go on with the settings of {str(self.path)!r}, got others ({', '.join(changed)}). "
                "Use the same, or another --output."
            )
        for row in rows[1:]:
            if all(row[name] is None or (folder / row[name]).is_file() for name in ("image", "mask")):
                self.finished[row["job"], row["index"]] = row
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, b"".join(map(json_line, [{"settings": settings}, *self.finished.values()])))

    def append(self, row: dict[str, Any]) -> None:
        from ..files import append_json_line

        append_json_line(self.path, row)
        self.finished[row["job"], row["index"]] = row
