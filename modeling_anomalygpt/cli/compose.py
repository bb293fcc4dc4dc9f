"""`anomalygpt compose`: a vision model and a language model become one checkpoint folder."""

import argparse

from .options import be_quiet, check_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the parts, `--output` and `--dtype`."""
    eyes = "vision model, or one with a vision half (default: the eyes of the embedded checkpoint)"
    parser.add_argument("--vision", metavar="DIR_OR_ID", help=eyes)
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
    from ..checkpoints import CheckpointError, load_checkpoint, new_folder
    from ..composition import with_language_model
    from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration

    if args.vision is None and args.text_tower is not None:
        raise CheckpointError("`--text-tower` must come with --vision, got it alone. The embedded eyes have none.")
    with new_folder(args.output) as partial:
        if args.vision is None:
            dtype = "float16" if args.dtype == "auto" else args.dtype  # the embedded weights are stored in float16
            model = with_language_model(*load_checkpoint(device="cpu", dtype=dtype), args.language, args.dtype)
        else:
            model = AnomalyGPTForConditionalGeneration.from_vision_language_pretrained(
                args.vision, args.language, args.text_tower, args.dtype
            )
        model.save_pretrained(partial)
    print(f"saved {args.output}")
    return 0
