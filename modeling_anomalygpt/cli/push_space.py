"""`anomalygpt push-space`: the page for a model, as a Space on the Hugging Face Hub."""

import argparse

EPILOG = """examples:
  anomalygpt push-space me/inspect-bolts --model me/my-parts          # a model that is on the Hub
  anomalygpt push-space me/inspect-bolts --model runs/bolts           # a folder: its weights travel inside
  anomalygpt push-space me/inspect-bolts --output space/              # write the folder, push nothing

A token with write access is needed: `hf auth login`, or HF_TOKEN. The Hub builds the Space after the push; a model
that is private must be readable by the Space (its settings: secret HF_TOKEN)."""


def add_push_space_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt push-space`."""
    parser.add_argument("id", metavar="ID", help="name of the Space: user/name")
    parser.add_argument("--model", metavar="ID_OR_FOLDER", help="what it shows (default: the embedded checkpoint)")
    parser.add_argument("--title", metavar="TEXT", help="title of the Space")
    parser.add_argument("--private", action="store_true", help="hide a new Space from others")
    parser.add_argument("--output", metavar="FOLDER", help="write the Space there and push nothing")


def run_push_space(args: argparse.Namespace) -> int:
    """Runs `anomalygpt push-space`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_push_space_arguments`].

    Returns:
        `int`: The exit code.
    """
    import pathlib
    import tempfile

    from ..errors import quiet_client
    from ..hub.publishing import push_folder
    from ..hub.space import write_space

    quiet_client()
    if args.output:
        write_space(args.output, args.model, args.title)
        print(f"{args.output}: try it with `cd {args.output} && python app.py`")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "space"
        write_space(folder, args.model, args.title)
        address = push_folder(folder, args.id, "space", args.private, "AnomalyGPT Space")
    print(address)
    return 0


__all__ = ["add_push_space_arguments", "run_push_space"]
