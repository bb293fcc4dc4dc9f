"""`anomalygpt push`: a model of one's own on the Hugging Face Hub, with code, pipeline, handler and card."""

import argparse

EPILOG = """examples:
  anomalygpt push me/my-parts --model runs/bolts
  anomalygpt push me/my-parts --model runs/lora             # an adapter: merged with its model
  anomalygpt push me/my-lora --model runs/lora --base me/my-parts --private     # the adapter alone
  anomalygpt push me/my-parts --model runs/bolts --list     # what would be sent; nothing is

A token with write access is needed: `hf auth login`, or HF_TOKEN. Then anyone (or you, if private) can use it:
  anomalygpt inspect photo.png --model me/my-parts --references good/
  pipeline("anomaly-detection", model="me/my-parts", trust_remote_code=True)

`anomalygpt push-space me/my-space --model me/my-parts` puts a page for it beside it."""


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt push`."""
    parser.add_argument("id", metavar="ID", help="name on the Hub: user/name")
    parser.add_argument(
        "--model", metavar="FOLDER", help="checkpoint or adapter, as training or convert wrote it (default: embedded)"
    )
    parser.add_argument("--base", metavar="ID", help="for an adapter: Hub id of the model it was trained on")
    parser.add_argument("--license", metavar="NAME", help="for the card, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="hide a new repository from others")
    parser.add_argument("--message", default="AnomalyGPT model", metavar="TEXT", help="of the commit")
    parser.add_argument("--list", action="store_true", help="print what would be sent, send nothing")


def run_push(args: argparse.Namespace) -> int:
    """Runs `anomalygpt push`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_push_arguments`].

    Returns:
        `int`: The exit code.
    """
    import contextlib
    import tempfile

    from ..checkpoints import EMBEDDED_CHECKPOINT
    from ..errors import quiet_client
    from ..hub.publishing import model_repository, needs_merging

    quiet_client()
    with contextlib.ExitStack() as closing:
        folder = args.model or str(EMBEDDED_CHECKPOINT)
        if not args.base and needs_merging(folder):
            merged = closing.enter_context(tempfile.TemporaryDirectory())
            folder = merge(folder, merged)
        return _send(args, model_repository(folder, args.id, args.base, args.license))


def merge(adapter: str, place: str) -> str:
    """The whole model of an adapter whose model is a folder of this machine; its weights are added up once."""
    import pathlib
    import shutil

    from transformers.utils import logging

    from ..hub.merging import merge_adapter

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    output = pathlib.Path(place) / pathlib.Path(adapter).resolve().name
    merge_adapter(adapter, output)
    card = pathlib.Path(adapter) / "README.md"
    if card.is_file():
        shutil.copyfile(card, output / "README.md")
    print(f"{adapter} is an adapter on a model of this machine: the whole model goes. (--base ID sends it alone.)")
    return str(output)


def _send(args: argparse.Namespace, files: dict) -> int:
    from ..hub.publishing import push_files

    if args.list:
        for path, content in sorted(files.items()):
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f"{size:>14,}  {path}")
        return 0
    address = push_files(files, args.id, "model", args.private, args.message)
    print(f"{len(files)} files: {address}")
    return 0


__all__ = ["add_push_arguments", "merge", "run_push"]
