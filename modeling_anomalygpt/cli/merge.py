"""`anomalygpt merge`: an adapter and its checkpoint become one plain checkpoint."""

import argparse

EPILOG = """example:
  anomalygpt merge bolt --output bolt-merged
  anomalygpt inspect photo.png --model bolt-merged --references good/"""


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the adapter, `--output` and `--dtype`.

    Args:
        parser (`argparse.ArgumentParser`): Of the subcommand.
    """
    parser.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id that training wrote")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as they are stored)"
    )


def run_merge(args: argparse.Namespace) -> int:
    """Merges.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_merge_arguments`].

    Returns:
        `int`: 0.

    Raises:
        ValueError, OSError: One line each.
    """
    from transformers.utils import logging

    from ..hub.merging import merge_adapter

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    merge_adapter(args.adapter, args.output, args.dtype)
    print(f"saved {args.output}")
    return 0


__all__ = ["EPILOG", "add_merge_arguments", "run_merge"]
