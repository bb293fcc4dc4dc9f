"""`anomalygpt export`: the map path as an ONNX, OpenVINO or torch.export file for other runtimes."""

import argparse
import pathlib

from .options import add_model_options, add_reference_options, find_references, load_inspector, named_pictures

_ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt export`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same as --output")
    parser.add_argument("--output", metavar="FILE", help="NAME.onnx, NAME.xml (OpenVINO) or NAME.pt2")
    parser.add_argument("--runtime", choices=tuple(_ENDINGS), help="default: as the ending of the file says")
    parser.add_argument("--bank-input", action="store_true", help="leave the references out; they are inputs")
    parser.add_argument("--no-check", action="store_true", help="do not run the file and compare it with PyTorch")
    small = parser.add_argument_group("8 bits")
    small.add_argument("--int8", action="store_true", help="whole numbers of 8 bits in the transformer layers")
    pictures = "your own pictures for --int8, good and bad; every second sets the steps, the others are compared"
    small.add_argument("--pictures", nargs="+", metavar="PATH", help=pictures)
    add_reference_options(parser)
    add_model_options(parser, tile=True)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt export`; returns the exit code."""
    output = _output(args)
    pictures = _pictures(args)
    if args.part == "auto":
        raise ValueError("`--part` must name one part for an export, got 'auto'. See `anomalygpt parts list`.")
    if args.align:
        raise ValueError("`--align` must be left out for an export, which follows no pose.")
    if args.presence:
        raise ValueError("`--presence` must be left out for an export, which finds nothing missing.")
    references = find_references(args)
    if args.category and not (references or args.part):
        raise ValueError("`--category` must come with --references or --part, to which the file then belongs.")
    from ..hub.export import check_packages, export_map_path
    from ..hub.runtimes import runtime_of

    check_packages(runtime_of(output), not args.no_check, args.int8)
    inspector = load_inspector(args, references)
    made = export_map_path(inspector, output, args.bank_input, not args.no_check, pictures)
    how = "not checked"
    if made.agreement is not None:
        agreement = made.agreement
        how = (
            f"8 bits: {agreement.same_verdicts} of {agreement.pictures} verdicts as PyTorch's map gives them, "
            f"differs by at most {agreement.largest_difference:.2g} ({made.checked_with})"
        )
    elif made.largest_difference is not None:
        how = f"differs from PyTorch by at most {made.largest_difference:.1g} ({made.checked_with})"
    weights = made.path.with_suffix(".bin")
    size = made.path.stat().st_size + (weights.stat().st_size if made.path.suffix == ".xml" else 0)
    print(f"{made.path} ({size / 1e6:.1f} MB), {how}; how to call it: {made.path.with_suffix('.json')}")
    return 0


def _output(args: argparse.Namespace) -> str:
    """The file to write; the ending of the runtime is added to a name without one."""
    output, ending = args.output or args.file, _ENDINGS.get(args.runtime)
    known = output is not None and pathlib.Path(output).suffix in _ENDINGS.values()
    if output is not None and ending is not None:
        if not known:
            return output + ending
        if not output.endswith(ending):
            raise ValueError(
                f"`--output` must end in {ending} with --runtime {args.runtime}, got {output!r}. Change one of them."
            )
    if not known:
        raise ValueError(f"`--output` must end in .onnx, .xml or .pt2, got {output!r}. Name it map.onnx.")
    return output


def _pictures(args: argparse.Namespace) -> list[str] | None:
    """The user's own pictures for 8 bits; `None` where they are not asked for."""
    if args.int8 != bool(args.pictures):
        given, missing = ("--int8", "--pictures") if args.int8 else ("--pictures", "--int8")
        raise ValueError(f"`{given}` must be given with {missing}: 8 bits are tried on your own pictures.")
    if args.int8 and args.no_check:
        raise ValueError("`--no-check` must be left out with --int8, which is always compared with PyTorch.")
    if args.int8 and args.bank_input:
        raise ValueError("`--bank-input` must be left out with --int8, whose verdicts need the references.")
    return named_pictures(args, "--pictures", args.pictures) if args.int8 else None
