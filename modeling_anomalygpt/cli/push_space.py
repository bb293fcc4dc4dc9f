"""`anomalygpt push-space`: the page for a model, as a Space on the Hugging Face Hub."""

import argparse
import pathlib
import tempfile

from .options import be_quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt push-space`."""
    parser.add_argument("id", metavar="ID", help="name of the Space: user/name")
    parser.add_argument("--model", metavar="ID_OR_FOLDER", help="what it shows (default: the embedded checkpoint)")
    parser.add_argument("--title", metavar="TEXT", help="title of the Space")
    parser.add_argument("--private", action="store_true", help="hide a new Space from others")
    parser.add_argument("--output", metavar="FOLDER", help="write the Space there and push nothing")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt push-space`; returns the exit code."""
    be_quiet()
    from ..hub.publishing import push_folder
    from ..hub.space import write_space

    if args.output:
        write_space(args.output, args.model, args.title)
        print(f"{args.output}: try it with `cd {args.output} && python app.py`")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "space"
        write_space(folder, args.model, args.title)
        print(push_folder(folder, args.id, "space", args.private, "AnomalyGPT Space"))
    return 0
