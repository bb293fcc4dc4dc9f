"""`anomalygpt compose`: a vision model and a language model become one checkpoint folder."""

import argparse

from .options import be_quiet, check_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the parts, `--output` and `--dtype`."""
    parser.add_argument("--vision", required=True, metavar="DIR_OR_ID", help="vision model, or one with a vision half")
    parser.add_argument("--language", required=True, metavar="DIR_OR_ID", help="language model with its tokenizer")
    tower = "text encoder for maps by words, usually the same as --vision"
    parser.add_argument("--text-tower", metavar="DIR_OR_ID", help=tower)
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, default="auto", help="of the weights (default: as they are)")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt compose`; returns the exit code."""
    be_quiet()
    for option in ("vision", "language", "text_tower"):
        check_model(getattr(args, option), f"--{option.replace('_', '-')}")
    from ..checkpoints import new_folder
    from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration

    with new_folder(args.output) as partial:
        AnomalyGPTForConditionalGeneration.from_vision_language_pretrained(
            args.vision, args.language, args.text_tower, args.dtype
        ).save_pretrained(partial)
    print(f"saved {args.output}")
    return 0
