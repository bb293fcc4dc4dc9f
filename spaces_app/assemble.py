"""Puts a complete Space into one folder: the page, the package, its pictures and the front matter. Uploads nothing.

`python -m spaces_app.assemble build/space` writes it; `python app.py` inside runs it.
"""

import argparse
import os
import pathlib
import re
import shutil
import sys

import modeling_anomalygpt

from .example_pictures import EXAMPLES_FOLDER

_PAGE = pathlib.Path(__file__).parent
_PACKAGE = pathlib.Path(modeling_anomalygpt.__file__).parent
_ROOT_FILES = ("app.py", "README.md", "README_zh.md", "requirements.txt")
_UNWANTED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi", "examples", *_ROOT_FILES)


def assemble_space(folder: str | os.PathLike, model: str | None = None, title: str | None = None) -> pathlib.Path:
    r"""
    Writes everything a Space needs.

    Args:
        folder (`str` or `os.PathLike`):
            Where to; made if it is missing. An earlier Space in it is replaced.
        model (`str`, *optional*):
            Hub id of the model it shows; fetched when the Space is built. `None`: the embedded checkpoint travels
            inside.
        title (`str`, *optional*):
            Of the Space.

    Returns:
        `pathlib.Path`: The folder.

    Raises:
        ValueError: If `model` is no Hub id, or the folder holds other things.
    """
    if model is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        raise ValueError(f"`model` must be a Hub id such as 'user/name', got {model!r}. Push the model first.")
    folder = pathlib.Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "spaces_app").is_dir():
        raise ValueError(f"`folder` must be empty or an earlier Space, got {str(folder)!r}. Choose another one.")
    for name in ("spaces_app", "modeling_anomalygpt", "examples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(_PAGE, folder / "spaces_app", ignore=_UNWANTED)
    without_weights = ("anomalygpt_tiny",) if model else ()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", *without_weights)
    shutil.copytree(_PACKAGE, folder / "modeling_anomalygpt", ignore=ignored)
    for picture in sorted(EXAMPLES_FOLDER.glob("*/*/*.jpg")):
        target = folder / "examples" / picture.relative_to(EXAMPLES_FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    shutil.copyfile(_PAGE / "requirements.txt", folder / "requirements.txt")
    page = (_PAGE / "app.py").read_text(encoding="utf-8")
    (folder / "app.py").write_text(_with_model(page, model), encoding="utf-8")
    for name, said in (("README.md", "The model is"), ("README_zh.md", "模型为")):
        readme = (_PAGE / name).read_text(encoding="utf-8")
        if model:
            link = f"{said} [{model}](https://huggingface.co/{model})."
            readme = re.sub(r"(?s)(?<=<!-- model -->\n).*?(?=\n<!-- end model -->)", link, readme)
        if name == "README.md":
            readme = _front_matter(readme, model, title)
        (folder / name).write_text(readme, encoding="utf-8")
    # The weights are larger than what Git takes as a plain file on the Hub.
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", encoding="utf-8")
    return folder


def _with_model(page: str, model: str | None) -> str:
    if model is None:
        return page
    wanted = 'os.environ.get("ANOMALYGPT_MODEL") or None'
    if wanted not in page:
        raise RuntimeError("app.py no longer reads ANOMALYGPT_MODEL as `assemble_space` expects it.")
    return page.replace(wanted, f'os.environ.get("ANOMALYGPT_MODEL") or {model!r}')


def _front_matter(readme: str, model: str | None, title: str | None) -> str:
    """The README with title and model in its front matter (https://huggingface.co/docs/hub/spaces-config-reference)."""
    _, front, body = readme.split("---\n", 2)
    if title:
        front = front.replace("title: AnomalyGPT\n", f"title: {_quoted(title)}\n")
    if model:
        front += f"models:\n  - {model}\npreload_from_hub:\n  - {model}\n"
    return f"---\n{front}---\n{body}"


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'


def main(argv: list[str] | None = None) -> int:
    """Assembles a Space from the command line."""
    parser = argparse.ArgumentParser(prog="python -m spaces_app.assemble", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where to write it")
    parser.add_argument("--model", metavar="ID", help="Hub id of the model (default: the embedded checkpoint inside)")
    parser.add_argument("--title", metavar="TEXT", help="of the Space")
    args = parser.parse_args(argv)
    try:
        assemble_space(args.folder, args.model, args.title)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


__all__ = ["assemble_space"]

if __name__ == "__main__":
    sys.exit(main())
