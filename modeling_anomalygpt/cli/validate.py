"""`anomalygpt validate`: an exported bundle, checked before it goes to the line.

Loads no model before the files are known to be whole.
"""

import argparse
import math
import statistics

from .options import add_model_options, check_model, load_model, named_pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt validate`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder with one export, or its .json, .onnx, .xml or .pt2")
    pictures = "pictures of the line, good and bad: files, folders, quoted patterns (default: two of noise)"
    parser.add_argument("--pictures", nargs="+", metavar="PATH", help=pictures)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt validate`; returns the exit code."""
    from ..hub.bundle import read_bundle

    check_model(args.model)
    pictures = named_pictures(args, "--pictures", args.pictures) or None
    bundle = read_bundle(args.bundle)
    from ..hub.runtimes import name_of, runtime_of
    from ..hub.validation import LARGEST_DIFFERENCE, LEAST_AGREEMENT, validate

    found = validate(bundle, load_model(args), pictures)
    precision = bundle.description.get("precision")
    limit = (
        f"at most {LARGEST_DIFFERENCE}" if precision != "int8" else f"at least {LEAST_AGREEMENT:.0%} of the verdicts"
    )
    agreement, runtime = found.agreement, name_of(runtime_of(bundle.file))
    images = f"{agreement.pictures} pictures" if pictures else "noise; give --pictures of the line"
    print(f"files:    {len(bundle.description['files'])} as they were exported ({bundle.size / 1e6:.1f} MB)")
    print(f"map:      differs from PyTorch's by at most {agreement.largest_difference:.1g} on {images} ({precision})")
    print(f"verdicts: {agreement.same_verdicts} of {agreement.pictures} as PyTorch's map alone gives them")
    median, slow = statistics.median(found.seconds), found.seconds[math.ceil(0.95 * len(found.seconds)) - 1]
    print(f"latency:  {1000 * median:.0f} ms a picture, 95th percentile {1000 * slow:.0f} ms ({runtime})")
    print(f"{bundle.file}: valid (allowed: {limit})")
    return 0
