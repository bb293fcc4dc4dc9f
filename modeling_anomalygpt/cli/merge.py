"""`anomalygpt merge`: an adapter and its checkpoint become one plain checkpoint."""

import argparse

from .options import be_quiet, check_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the adapter, `--output` and `--dtype`."""
    parser.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id that training wrote")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    own = "of the weights (default: as in the checkpoint)"
    parser.add_argument("--dtype", choices=dtypes, default="auto", help=own)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt merge`; returns the exit code."""
    be_quiet()
    check_model(args.adapter, "ADAPTER")
    from ..hub.merging import merge_adapter

    merge_adapter(args.adapter, args.output, args.dtype)
    print(f"saved {args.output}")
    return 0
