"""`anomalygpt export`: the map path as one ONNX or torch.export file for other runtimes."""

import argparse

from .options import add_model_arguments, find_references, load_inspector

EPILOG = """examples:
  anomalygpt export bolts.onnx --references good/ --category bolt     # the references inside: pictures in, maps out
  anomalygpt export bolts.onnx --bank-input                           # the references are inputs of every call
  anomalygpt export bolts.pt2 --model me/my-parts --references good/  # for torch.export.load

Beside bolts.onnx lies bolts.json: sizes, colours and thresholds for the program that runs it. Exported is the map
(vision model, localizer, memory bank) for any number of pictures at once; answers need the model itself. The file is
run and compared with PyTorch before it is kept. ONNX needs: pip install onnx onnxscript onnxruntime"""


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt export`."""
    parser.add_argument("output", metavar="FILE", help="NAME.onnx or NAME.pt2")
    parser.add_argument("--bank-input", action="store_true", help="leave the references out; they are inputs")
    parser.add_argument("--no-check", action="store_true", help="do not run the file and compare it with PyTorch")
    add_model_arguments(parser)


def run_export(args: argparse.Namespace) -> int:
    """Runs `anomalygpt export`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_export_arguments`].

    Returns:
        `int`: The exit code.
    """
    import logging
    import pathlib

    if pathlib.Path(args.output).suffix not in (".onnx", ".pt2"):  # told before the model is loaded
        raise ValueError(f"FILE must end in .onnx or .pt2, got {args.output!r}.")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    inspector = load_inspector(args, find_references(args))
    from ..hub.export import export_map_path

    made = export_map_path(inspector, args.output, args.bank_input, check=not args.no_check)
    size = made.path.stat().st_size
    how = (
        "not checked"
        if made.largest_difference is None
        else f"differs from PyTorch by at most {made.largest_difference:.1g} ({made.checked_with})"
    )
    print(f"{made.path} ({size / 1e6:.1f} MB), {how}; how to call it: {made.path.with_suffix('.json')}")
    return 0


__all__ = ["add_export_arguments", "run_export"]
