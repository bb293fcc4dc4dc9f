"""`anomalygpt compose`: a vision model and a language model become one checkpoint folder."""

import argparse

EPILOG = """example:
  anomalygpt compose --vision facebook/dinov2-base --language HuggingFaceTB/SmolLM2-135M --output mine
  anomalygpt inspect photo.png --model mine --references good/

The folder localizes by references at once; its words must be trained: anomalygpt train --model mine ..."""


def add_compose_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the parts, `--output` and `--dtype`.

    Args:
        parser (`argparse.ArgumentParser`): Of the subcommand.
    """
    parser.add_argument("--vision", required=True, metavar="DIR_OR_ID", help="vision model, or one with a vision half")
    parser.add_argument("--language", required=True, metavar="DIR_OR_ID", help="language model with its tokenizer")
    parser.add_argument(
        "--text-tower", metavar="DIR_OR_ID", help="text encoder for maps by words, usually the same as --vision"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (default: as they are)",
    )


def run_compose(args: argparse.Namespace) -> int:
    """Composes and saves.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_compose_arguments`].

    Returns:
        `int`: 0.

    Raises:
        ValueError, OSError: One line each.
    """
    from transformers.utils import logging

    from ..checkpoints import new_folder
    from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with new_folder(args.output) as partial:
        AnomalyGPTForConditionalGeneration.from_vision_language_pretrained(
            args.vision, args.language, args.text_tower, args.dtype
        ).save_pretrained(partial)
    print(f"saved {args.output}")
    return 0


__all__ = ["EPILOG", "add_compose_arguments", "run_compose"]
