"""`anomalygpt push-space`: the page for a model, as a Space on the Hugging Face Hub."""

import argparse
import pathlib
import shutil
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

    if args.output:
        write_space(args.output, args.model, args.title)
        print(f"{args.output}: try it with `cd {args.output} && python app.py`")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "space"
        write_space(folder, args.model, args.title)
        print(push_folder(folder, args.id, "space", args.private, "AnomalyGPT Space"))
    return 0


def write_space(folder: str, model: str | None = None, title: str | None = None) -> None:
    """Writes a Space for a Hub id; a model that is a folder travels inside, in the embedded checkpoint's place.

    Raises:
        ValueError: If the folder holds no whole model, or the Space cannot be written there.
    """
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
