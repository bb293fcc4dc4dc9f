"""`anomalygpt export`: the map path as one ONNX or torch.export file for other runtimes."""

import argparse
import pathlib

from .options import add_model_options, add_reference_options, find_references, load_inspector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt export`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same as --output")
    parser.add_argument("--output", metavar="FILE", help="NAME.onnx or NAME.pt2")
    parser.add_argument("--bank-input", action="store_true", help="leave the references out; they are inputs")
    parser.add_argument("--no-check", action="store_true", help="do not run the file and compare it with PyTorch")
    add_reference_options(parser)
    add_model_options(parser, tile=True)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt export`; returns the exit code."""
    output = args.output or args.file
    if output is None or pathlib.Path(output).suffix not in (".onnx", ".pt2"):
        raise ValueError(f"`--output` must end in .onnx or .pt2, got {output!r}.")
    references = find_references(args)
    from ..hub.export import check_packages, export_map_path

    if output.endswith(".onnx"):
        check_packages(not args.no_check)
    inspector = load_inspector(args, references)
    made = export_map_path(inspector, output, args.bank_input, check=not args.no_check)
    how = "not checked"
    if made.largest_difference is not None:
        how = f"differs from PyTorch by at most {made.largest_difference:.1g} ({made.checked_with})"
    size = made.path.stat().st_size / 1e6
    print(f"{made.path} ({size:.1f} MB), {how}; how to call it: {made.path.with_suffix('.json')}")
    return 0
