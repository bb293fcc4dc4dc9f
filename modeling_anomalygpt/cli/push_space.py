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


def write_space(folder: str, model: str | None = None, title: str | None = None) -> None:
    r"""
    Writes a Space; a model that is a folder travels inside, in the place of the embedded checkpoint.

    Args:
        folder (`str`):
            Where to.
        model (`str`, *optional*):
            Hub id or folder. `None`: the embedded checkpoint.
        title (`str`, *optional*):
            Of the Space.

    Raises:
        ValueError: If the folder holds no whole model, or the Space cannot be written there.
    """
    import pathlib
    import shutil

    from spaces_app.assemble import assemble_space

    from ..hub.files import code_files, is_adapter
    from ..hub.publishing import model_repository

    inside = model is not None and pathlib.Path(model).is_dir()
    if not inside:
        assemble_space(folder, model, title)
        return
    if is_adapter(model):
        raise ValueError(
            f"`model` must be a whole model or a Hub id, got the adapter {model!r}. "
            "Push it with `anomalygpt push`, which makes it whole, then give its id."
        )
    files = model_repository(model, pathlib.Path(model).name)
    assemble_space(folder, None, title)
    place = pathlib.Path(folder) / "modeling_anomalygpt" / "anomalygpt_tiny"
    shutil.rmtree(place)
    for name in files.keys() - code_files().keys():  # the package beside it has the code
        target, content = place / name, files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)


__all__ = ["add_push_space_arguments", "run_push_space", "write_space"]
