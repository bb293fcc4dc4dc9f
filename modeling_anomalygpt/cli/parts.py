"""`anomalygpt parts`: what was learned of a part, kept under a name.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import os
import pathlib
import sys
from typing import Any

from .inspect import calibrate
from .options import (
    add_description_options,
    add_model_options,
    add_parts_folder,
    check_folder_of,
    check_model,
    check_pose,
    check_roi,
    learn_references,
    load_model,
    named_pictures,
    rate,
    scale,
)
from .tables import format_table, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions of `anomalygpt parts` with their options."""
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        for argument in arguments:
            one.add_argument(argument.lower(), metavar=argument)
        add_parts_folder(one)
        return one

    add = action("add", "learn a part from good pictures and store it; of a stored one, a new version", "NAME")
    add.add_argument("good", nargs="+", metavar="GOOD", help="good pictures: files, folders, quoted patterns")
    limits = add.add_argument_group("limits")
    limits.add_argument("--calibrate", nargs="+", default=[], metavar="PATH", help="more good pictures set the limits")
    limits.add_argument("--max-false-alarm", type=rate, metavar="RATE", help="for --calibrate (default: 0.02)")
    add.add_argument("--mm-per-pixel", type=scale, metavar="MM", help="scale, for sizes in millimetres")
    add_description_options(add)
    add_model_options(add, tile=True)
    action("list", "list the stored parts")
    action("show", "say what is known of a part", "NAME")
    action("remove", "remove a part with all its versions", "NAME")
    action("export", "write a part as one file, to take it to another machine", "NAME", "FILE")
    take_in = action("import", "store a part from a file, all of it checked", "FILE")
    take_in.add_argument("--name", metavar="NAME", help="what it is called here (default: the name of the file)")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt parts`; returns the exit code."""
    from ..line.parts import PartStore

    store = PartStore(args.parts_dir)
    actions = {"add": _add, "list": _list, "show": _show, "remove": _remove, "export": _export, "import": _import}
    return actions[args.action](args, store)


def _add(args: argparse.Namespace, store: Any) -> int:
    from ..line.parts import EMBEDDED, PartFacts, check_name

    check_name(args.name)
    if args.max_false_alarm and not args.calibrate:
        raise ValueError("`--max-false-alarm` must be given with --calibrate, whose good pictures set the limits.")
    good = named_pictures(args, "GOOD", args.good)
    normals = named_pictures(args, "--calibrate", args.calibrate)
    check_pose(args)
    check_roi(args.roi, good)
    check_model(args.model)
    inspector = load_model(args, tile=args.tile)
    learn_references(args, inspector, good, args.category or args.name)
    if normals:
        calibrate(inspector, normals, args.max_false_alarm or 0.02)
    facts = PartFacts(model=args.model or EMBEDDED, tile=args.tile, mm_per_pixel=args.mm_per_pixel)
    part = store.write(args.name, inspector.references, facts)
    pictures = "good picture" if len(good) == 1 else "good pictures"
    print(f"{part.name}: version {part.version}, {len(good)} {pictures}, in {store.folder}")
    print(f"Use it: anomalygpt inspect PICTURE --part {part.name}")
    return 0


def _list(args: argparse.Namespace, store: Any) -> int:
    rows = []
    for name in store.names():
        try:
            part = store.read(name)
        except ValueError as error:
            print(f"anomalygpt parts: {printable(str(error))}", file=sys.stderr)
            continue
        calibration = part.references.calibration
        limits = "-" if calibration is None else _promise(calibration)
        size = store.path(name).stat().st_size / 2**20
        number = part.references.num_pictures
        rows.append(
            [name, str(part.version), str(number), limits, part.facts.model, f"{size:.1f} MB", part.facts.made]
        )
    if not rows:
        print(f"No parts in {store.folder}. Make one: anomalygpt parts add NAME GOOD_PICTURES")
        return 0
    header = ["part", "version", "good pictures", "false alarms, at most", "model", "size", "made"]
    print("\n".join(format_table(header, rows, numbers=(1, 2, 3, 5))))
    return 0


def _promise(calibration: Any) -> str:
    """The rate of false alarms that is kept; after a correction that takes patches out there is none."""
    rate = calibration.supported_false_alarm_rate
    return f"{rate:.1%}" if rate < 1 else "any, calibrate again"


def _show(args: argparse.Namespace, store: Any) -> int:
    part = store.read(args.name)
    references, learned = part.references, part.references.calibration
    limits = learned and f"{learned.num_normals} good pictures; false alarms, at most: {_promise(learned)}"
    facts = {
        "part": part.name,
        "version": f"{part.version} of {', '.join(map(str, store.versions(part.name)))}",
        "made": part.facts.made or "-",
        "category": references.category,
        "description": references.description or "-",
        "good pictures": references.num_pictures,
        "threshold": f"{references.bank.threshold:.4f}" if references.bank.threshold else "-",
        "calibration": limits or "-",
        "scale": f"{part.facts.mm_per_pixel:g} mm a pixel" if part.facts.mm_per_pixel else "-",
        "tile": part.facts.tile or "-",
        "bits": references.bits or "-",
        "pose": "followed" if references.views is not None else "rotated copies" if references.copies > 1 else "-",
        "presence": "what all good pictures show must be there" if references.bank.presence else "-",
        "region": "-" if references.roi is None else f"{references.roi.mean():.1%} of the picture",
        "model": f"{part.facts.model} ({references.bank.fingerprint})",
        "fingerprint": references.fingerprint(),
        "file": store.path(part.name),
    }
    for label, value in facts.items():
        print(f"{label + ':':16}{printable(str(value))}")
    return 0


def _remove(args: argparse.Namespace, store: Any) -> int:
    store.remove(args.name)
    print(f"removed {args.name}")
    return 0


def _export(args: argparse.Namespace, store: Any) -> int:
    from ..files import write_atomically

    store.read(args.name)  # a damaged one is not handed on
    file = pathlib.Path(args.file)
    if file.suffix != ".safetensors":
        raise ValueError(f"`FILE` must end with .safetensors, got {args.file!r}. Name it {args.name}.safetensors.")
    check_folder_of("FILE", file)
    write_atomically(file, store.path(args.name).read_bytes())
    print(f"{file}: {args.name}, {file.stat().st_size / 2**20:.1f} MB")
    return 0


def _import(args: argparse.Namespace, store: Any) -> int:
    part = store.take_in(args.file, args.name or os.path.basename(args.file).removesuffix(".safetensors"))
    print(f"{part.name}: version {part.version}, made with {printable(part.facts.model)}, in {store.folder}")
    return 0
