"""`anomalygpt push`: a model of one's own on the Hugging Face Hub, with code, pipeline, handler and card."""

import argparse
import contextlib
import pathlib
import shutil
import tempfile

from .options import be_quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt push`."""
    parser.add_argument("id", metavar="ID", help="name on the Hub: user/name")
    folder = "checkpoint or adapter, as training or convert wrote it (default: the embedded one)"
    parser.add_argument("--model", metavar="FOLDER", help=folder)
    parser.add_argument("--base", metavar="ID", help="for an adapter: Hub id of the model it was trained on")
    parser.add_argument("--license", metavar="NAME", help="for the card, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="hide a new repository from others")
    parser.add_argument("--message", default="AnomalyGPT model", metavar="TEXT", help="of the commit")
    parser.add_argument("--list", action="store_true", help="print what would be sent, send nothing")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt push`; returns the exit code."""
    be_quiet()
    from ..checkpoints import EMBEDDED_CHECKPOINT
    from ..hub.publishing import model_repository, needs_merging, push_files

    with contextlib.ExitStack() as closing:
        folder = args.model or str(EMBEDDED_CHECKPOINT)
        if not args.base and needs_merging(folder):
            folder = merge(folder, closing.enter_context(tempfile.TemporaryDirectory()))
        files = model_repository(folder, args.id, args.base, args.license)
        if args.list:
            for path, content in sorted(files.items()):
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                print(f"{size:>14,}  {path}")
            return 0
        address = push_files(files, args.id, "model", args.private, args.message)
    print(f"{len(files)} files: {address}")
    return 0


def merge(adapter: str, place: str) -> str:
    """The whole model of an adapter whose model is a folder of this machine; its weights are added up once."""
    from ..hub.merging import merge_adapter

    output = pathlib.Path(place) / pathlib.Path(adapter).resolve().name
    merge_adapter(adapter, output)
    card = pathlib.Path(adapter) / "README.md"
    if card.is_file():
        shutil.copyfile(card, output / "README.md")
    print(f"{adapter} is an adapter on a model of this machine: the whole model goes. (--base ID sends it alone.)")
    return str(output)
