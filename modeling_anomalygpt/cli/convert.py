"""`anomalygpt convert`: the published weights become one folder."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt convert`."""
    parser.add_argument("--imagebind", required=True, metavar="FILE", help="imagebind_huge.pth")
    parser.add_argument("--vicuna", metavar="DIR_OR_ID", help="Vicuna version 0 (vocabulary 32001)")
    parser.add_argument("--llama", metavar="DIR_OR_ID", help="the first LLaMA, when only Vicuna's delta is at hand")
    parser.add_argument("--vicuna-delta", metavar="DIR_OR_ID", help="Vicuna's delta version 0, added to --llama")
    parser.add_argument("--pandagpt", required=True, metavar="FILE", help="PandaGPT's pytorch_model.pt")
    parser.add_argument("--anomalygpt", required=True, metavar="FILE", help="AnomalyGPT's pytorch_model.pt")
    parser.add_argument(
        "--clip-bpe",
        default="openai/clip-vit-large-patch14",
        metavar="FILE_OR_ID",
        help="bpe_simple_vocab_16e6.txt.gz, or the Hub id of a CLIP model (default: %(default)s)",
    )
    parser.add_argument("--keep-lora", action="store_true", help="write the LoRA to OUTPUT/lora instead of merging it")
    dtypes = ("bfloat16", "float16", "float32")
    parser.add_argument("--dtype", choices=dtypes, default="bfloat16", help="default: %(default)s")
    parser.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--verify", action="store_true", help="load the result and test it in three stages")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt convert`; 0 when all went well, 1 when `--verify` found a stage that fails."""
    from ..conversion.convert import convert

    names = ("imagebind", "vicuna", "llama", "vicuna_delta", "pandagpt", "anomalygpt", "clip_bpe", "keep_lora")
    names += ("dtype", "max_shard_size", "output")
    try:
        report = convert(**{name: getattr(args, name) for name in names})
    except ValueError as error:
        # The command shows the first line of an error; the report of all keys goes before it.
        sys.stderr.write("".join(f"{line}\n" for line in str(error).splitlines()[1:]))
        raise
    sys.stdout.write(f"{report}\n")
    if not args.verify:
        return 0
    from ..conversion.checks import verify

    stages = verify(f"{args.output}/lora" if args.keep_lora else args.output)
    sys.stdout.writelines(f"{stage}\n" for stage in stages)
    return 0 if all(stage.passed for stage in stages) else 1
