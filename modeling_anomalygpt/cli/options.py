"""Options that several subcommands share, one group a concern, and what is made of them.

Imports nothing heavy before a model is loaded.
"""

import argparse
import contextlib
import logging
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout


def check_folder_of(name: str, file: str | os.PathLike) -> None:
    """Refuses a file whose folder does not exist, before any work is done for it.

    Args:
        name (`str`): The option, such as `"--csv"`.
        file (`str` or `os.PathLike`): To write.

    Raises:
        ValueError: The folder does not exist.
    """
    if not pathlib.Path(file).parent.is_dir():
        raise ValueError(f"`{name}` must be in a folder that exists, got {str(file)!r}. Make the folder.")


def add_reference_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--references`, `--part`, `--category` and `--description`."""
    group = parser.add_argument_group("good pictures")
    group.add_argument(
        "--references",
        nargs="+",
        default=[],
        metavar="PATH",
        help="good pictures of the same part: files, folders, quoted patterns, or one .safetensors memory bank",
    )
    stored = "a part that `anomalygpt parts add` has stored; auto chooses for each picture"
    group.add_argument("--part", metavar="NAME", help=stored)
    add_parts_folder(group)
    add_description_options(group)


def add_parts_folder(group: Any) -> None:
    """Adds `--parts-dir`."""
    where = "where parts are stored (default: ANOMALYGPT_PARTS, else ~/.anomalygpt/parts)"
    group.add_argument("--parts-dir", metavar="DIR", help=where)


def add_description_options(group: Any) -> None:
    """Adds what is known of good pictures: names, depth, the region of interest, how the part lies."""
    group.add_argument("--category", metavar="NAME", help='what the pictures show, in any words, such as "bolt"')
    group.add_argument("--description", metavar="TEXT", help="a sentence that says how a good one looks")
    depth = "depth of pictures with more than 8 bits, such as 12 (default: found in the references)"
    group.add_argument("--bits", type=whole(1, most=16), metavar="N", help=depth)
    roi = "what counts: a mask, white on black, drawn on the first good picture, or the .json of labelme"
    counts = group.add_mutually_exclusive_group()
    counts.add_argument("--roi", metavar="FILE", help=roi)
    told = "only the part counts, told from mat or tray by the good pictures; written as roi.png to be looked at"
    counts.add_argument("--foreground", choices=("auto",), help=told)
    lies = group.add_mutually_exclusive_group()
    align = "for a rigid part that lies any way: rotate and move each picture into the pose of the good ones"
    lies.add_argument("--align", action="store_true", help=align)
    copies = "learn copies rotated by 90, 180 and 270 degrees as well (no region of interest)"
    lies.add_argument("--rotations", action="store_true", help=copies)
    must = "what all good pictures (two or more) show must be there: for parts of which a piece may be missing"
    group.add_argument("--presence", action="store_true", help=must)


def add_inspection_options(parser: argparse.ArgumentParser) -> Any:
    """Adds what says how a picture is inspected; [`inspection_options`] reads it. Returns the group."""
    group = parser.add_argument_group("inspection")
    group.add_argument("--question", metavar="TEXT", help="what is asked (default: whether there is any anomaly)")
    group.add_argument("--language", choices=("en", "zh"), default="en", help="of answers and report (default: en)")
    group.add_argument("--mm-per-pixel", type=scale, metavar="MM", help="scale, for sizes in millimetres")
    group.add_argument(
        "--prefer",
        choices=("catch", "balance", "pass"),
        help="catch: a miss costs twice a false alarm; balance: 1.3 times; pass: half (default: balance); "
        "changes nothing after --calibrate, whose rate is kept",
    )
    parser.set_defaults(no_language=False)
    return group


def inspection_options(args: argparse.Namespace) -> Any:
    """The [`InspectionOptions`] of a command line."""
    from ..inspector import InspectionOptions

    return InspectionOptions(
        question=args.question,
        language=args.language,
        category=args.category,
        description=args.description,
        use_language=not args.no_language,
        mm_per_pixel=args.mm_per_pixel,
    )


def add_model_options(parser: argparse.ArgumentParser, tile: bool = False) -> Any:
    """Adds `--model`, `--device` and `--dtype`, and `--tile` where pictures may be split. Returns the group."""
    group = parser.add_argument_group("model")
    model = "checkpoint folder or Hub id, or small (default: the embedded one)"
    group.add_argument("--model", metavar="DIR_OR_ID", help=model)
    if tile:
        group.add_argument("--tile", type=tile_side, metavar="PIXELS", help="split larger pictures into such tiles")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    of_weights = "auto: the checkpoint's own on a GPU; float32 on the CPU, some products in bfloat16 where it has AMX"
    group.add_argument("--dtype", choices=dtypes, default="auto", help=of_weights)
    return group


def load_model(args: argparse.Namespace, **options: Any) -> Any:
    """The [`AnomalyInspector`] of `--model`, `--device` and `--dtype`; other packages' remarks are silenced."""
    be_quiet()
    check_model(args.model)
    from ..inspector import AnomalyInspector
    from ..scoring import PREFERENCES

    dtype = None if args.dtype == "auto" else args.dtype
    inspector = AnomalyInspector.from_pretrained(args.model, **({"device": args.device, "dtype": dtype} | options))
    if prefer := getattr(args, "prefer", None):
        inspector.model.config.decision = {"false_alarm_weight": PREFERENCES[prefer]}
    return inspector


def load_inspector(args: argparse.Namespace, references: list[str], folder: str | os.PathLike = "") -> Any:
    """The [`AnomalyInspector`] with its references: picture files, one memory bank, or a stored part.

    What `--foreground` finds is written into the folder. With `--part auto` it is a `PartChooser`, which inspects
    pictures as well.
    """
    if args.part:
        return _with_parts(args)
    inspector = load_model(args, tile=args.tile)
    if _is_memory_bank(references):
        inspector.load_references(references[0], args.category, args.description)
        args.mm_per_pixel = getattr(args, "mm_per_pixel", None) or _scale_of(references[0])
    elif references:
        learn_references(args, inspector, references, args.category or "object", folder)
    return inspector


def _scale_of(file: str) -> float | None:
    """The scale that an exported part holds; references alone hold none."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as part:
        if "part" not in (part.metadata() or {}):
            return None
    from ..line.parts import read_part

    return read_part(file)[0].mm_per_pixel  # its checksum is looked at too


def learn_references(
    args: argparse.Namespace, inspector: Any, good: list[str], category: str, folder: str | os.PathLike = ""
) -> None:
    """Gives an inspector its good pictures, with the region of interest of `--roi` or `--foreground`."""
    roi = args.roi
    if args.foreground:
        # With --align the region is that of the first picture, in whose pose the others are brought.
        roi = inspector.find_foreground(good[:1] if args.align else good, args.bits)
        mask, shown = _write_region(roi, good[0], args.bits, pathlib.Path(folder))
        print(
            f"anomalygpt {args.command}: {roi.mean():.0%} of the picture count, shown in {shown}. "
            f"Where that is wrong, change {mask} and give it as --roi.",
            file=sys.stderr,
        )
    options = {"rotations": args.rotations, "align": args.align, "presence": args.presence}
    inspector.set_references(good, category, args.description, bits=args.bits, roi=roi, **options)


def _write_region(roi: Any, good: str, bits: int | None, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes a region of interest, and the good picture with the rest darkened; overwrites no file."""
    import numpy as np
    from PIL import Image

    from ..files import write_atomically
    from ..images import load_picture
    from ..report.overlays import encoded

    picture = np.asarray(load_picture(good, bits))
    images = {".png": roi, "_shown.png": np.where(roi[..., None], picture, picture // 4)}
    names = ("roi", *(f"roi_{number}" for number in range(2, 1000)))
    stem = next(name for name in names if not (folder / f"{name}.png").exists())
    for ending, image in images.items():
        write_atomically(folder / f"{stem}{ending}", encoded(Image.fromarray(image)))
    return [folder / f"{stem}{ending}" for ending in images]


def _with_parts(args: argparse.Namespace) -> Any:
    """The inspector with the references of a stored part, or what chooses among all of them."""
    from ..line.parts import AUTO, PartChooser, PartFollower, PartStore

    store = PartStore(args.parts_dir)
    parts = [store.read(name) for name in (store.names() if args.part == AUTO else [args.part])]
    tiles = {part.facts.tile for part in parts}
    if args.part != AUTO and args.tile not in (None, *tiles):
        raise ValueError(
            f"`--tile` must be that of the part {args.part!r} ({parts[0].facts.tile or 'none'}), got {args.tile}. "
            "Leave it out."
        )
    inspector = load_model(args, tile=args.tile if args.part == AUTO else parts[0].facts.tile)
    if args.part == AUTO:
        chooser = PartChooser(inspector, parts)
        for name, reason in chooser.left_out.items():
            print(f"anomalygpt {args.command}: --part auto leaves {name!r} out: {reason}.", file=sys.stderr)
        return chooser
    parts[0].check(inspector, args.model)
    parts[0].use(inspector)
    scale = getattr(args, "mm_per_pixel", None)  # `export` has none
    args.followed = PartFollower(store, parts[0], inspector, args.model, scale)  # for `watch`
    args.mm_per_pixel = scale or parts[0].facts.mm_per_pixel
    return inspector


def be_quiet() -> None:
    """No warnings, log lines and bars of other packages between a command and its lines, unless debugging.

    Our own warnings say what was left out or is doubtful: they are shown, one line each.
    """
    if not os.environ.get("ANOMALYGPT_DEBUG"):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module="modeling_anomalygpt")
        warnings.showwarning = one_line
        # That there is no torchvision: four lines of every export to ONNX.
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    from .. import import_uncollected

    import_uncollected(".checkpoints")
    from transformers.utils import logging as transformers_logging

    from ..errors import quiet_client

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    quiet_client()


def one_line(message: Warning | str, *_: Any, command: str = "anomalygpt", **__: Any) -> None:
    """Prints a warning as one line, on the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{command}: warning: {' '.join(str(message).split())}", file=sys.stderr)


def check_model(name: str | None, option: str = "--model") -> None:
    """Refuses a folder that does not exist before anything is loaded; asks the Hub once for what looks like an id."""
    if name in (None, "small") or os.path.exists(name):
        return
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"`{option}` must be a folder or a Hub id (user/name), got {name!r}, which does not exist. Check the path."
        )
    from ..errors import HubError, needs_connection

    try:
        needs_connection(name)
    except HubError as error:
        raise HubError(f"There is no folder {name!r}. {error}") from error


def find_references(args: argparse.Namespace) -> list[str]:
    """The files meant by `--references`: pictures, or one memory bank; `NoPictureError` where one is missing."""
    from ..images import NoPictureError

    if args.part:
        from ..line.parts import AUTO, PartStore

        if args.references:
            raise ValueError("`--part` must stand alone: it has its own good pictures. Leave --references out.")
        if args.part != AUTO:
            PartStore(args.parts_dir).path(args.part)
    if args.bits is not None and (not args.references or _is_memory_bank(args.references)):
        raise ValueError("`--bits` must be given with pictures as --references; a memory bank keeps its own depth.")
    if not args.references or _is_memory_bank(args.references):
        for option in ("roi", "foreground", "align", "rotations", "presence"):
            if getattr(args, option):
                raise ValueError(
                    f"`--{option}` must be given with pictures as --references; what is stored keeps its own."
                )
    check_pose(args)
    if _is_memory_bank(args.references):
        if not os.path.isfile(args.references[0]):
            raise NoPictureError(f"There is no memory bank {args.references[0]!r}. Check --references.")
        return list(args.references)
    found = named_pictures(args, "--references", args.references)
    check_roi(args.roi, found)
    return found


def named_pictures(
    args: argparse.Namespace, option: str, places: list[str] | None, without: str | os.PathLike | None = None
) -> list[str]:
    """The pictures meant by an option, none where it is not given; says what was passed over."""
    from ..images import find_pictures

    if not places:
        return []
    found = find_pictures(places, without=without)
    if found.remark:
        print(f"anomalygpt {args.command}: {option}: {found.remark}", file=sys.stderr)
    return found


def check_pose(args: argparse.Namespace) -> None:
    """Refuses what does not go with rotated copies or tiles, before a model is loaded."""
    if args.rotations and (args.roi or args.foreground):
        option = "--roi" if args.roi else "--foreground"
        raise ValueError(f"`{option}` must stand without --rotations, whose copies have no fixed region. Try --align.")
    for option in ("rotations", "tile"):
        if args.presence and getattr(args, option, None):
            raise ValueError(f"`--presence` must stand without --{option}: it needs whole pictures in one pose.")


def check_roi(roi: str | None, good: list[str]) -> None:
    """Refuses a region of interest that does not fit the first good picture, before a model is loaded."""
    if roi is None:  # most often; a region brings torch
        return
    from ..images import picture_size
    from ..region_of_interest import load_roi

    load_roi(roi, picture_size(good[0]))


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike, lock: str) -> Iterator[None]:
    """Refuses a folder that another run is writing; `lock` is a hidden file in it, let go however a process ends."""
    try:
        with FileLock(os.path.join(folder, lock), timeout=0):
            yield
    except Timeout as error:
        line = f"The output folder {str(folder)!r} is being written by another run. Wait for it, or choose another."
        raise RuntimeError(line) from error


def _is_memory_bank(references: list[str]) -> bool:
    return len(references) == 1 and pathlib.Path(references[0]).suffix == ".safetensors"


def whole(least: int, hint: str = "", most: int | None = None) -> Any:
    """A type for argparse: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, got {text!r}{hint}")
        return int(text)

    return read


count, tile_side = whole(1), whole(32, "; tiles of 448 pixels are usual")


def positive(text: str) -> float:
    """A type for argparse: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def scale(text: str) -> float:
    """A type for argparse: millimetres a pixel, at most a kilometre."""
    value = positive(text)
    if value > 1e6:
        raise argparse.ArgumentTypeError(f"must be at most 1000000, got {text!r}")
    return value


def rate(text: str) -> float:
    """A type for argparse: a part between 0 and 1."""
    value = positive(text)
    if not value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text!r}; 0.02 means 2 %")
    return value


def uses_colour() -> bool:
    """Whether a terminal that shows colours reads what is printed (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
