"""A complete Space in one folder: the page, the package, its pictures and the front matter. Uploads nothing."""

import os
import pathlib
import re
import shutil

import spaces_app

from ..files import write_atomically
from .publishing import HERE, code_files, is_adapter, model_repository

_PAGE = pathlib.Path(spaces_app.__file__).parent
# Installed as a wheel, the pictures lie inside the page's package; in the repository, beside it.
_EXAMPLES = next((path for path in (_PAGE / "examples", _PAGE.parent / "examples") if path.is_dir()), _PAGE)
_ROOT_FILES = ("app.py", "README.md", "README_zh.md", "requirements.txt")
_EARLIER = ("app.py", ".gitattributes", "spaces_app")  # a checkout of this project has the last one alone
_MODEL_VARIABLE = 'os.environ.get("ANOMALYGPT_MODEL") or None'


def write_space(folder: str | os.PathLike, model: str | None = None, title: str | None = None) -> pathlib.Path:
    """Writes everything a Space needs; `python app.py` inside runs it.

    Args:
        folder (`str` or `os.PathLike`): Where to; made if it is missing. An earlier Space in it is replaced.
        model (`str`, *optional*): Hub id of the model it shows, fetched when the Space is built, or a folder, whose
            weights travel inside in the place of the embedded checkpoint. `None`: the embedded checkpoint.
        title (`str`, *optional*): Of the Space.

    Returns:
        `pathlib.Path`: The folder.

    Raises:
        ValueError: If `model` is neither a Hub id nor a folder with a whole model, **or** `folder` holds other things,
            among them what is copied.
    """
    folder, inside = pathlib.Path(folder), model is not None and os.path.isdir(model)
    if inside and is_adapter(model):
        raise ValueError(
            f"`model` must be a whole model or a Hub id, got the adapter {model!r}. "
            "Push it with `anomalygpt push`, which makes it whole, then give its id."
        )
    if model is not None and not inside and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        raise ValueError(f"`model` must be a Hub id such as 'user/name', got {model!r}. Push the model first.")
    _refuse_sources(folder, *([model] if inside else []))
    if folder.exists() and any(folder.iterdir()) and not all((folder / name).exists() for name in _EARLIER):
        raise ValueError(f"`folder` must be empty or an earlier Space, got {str(folder)!r}. Choose another one.")
    weights = model_repository(model, pathlib.Path(model).name) if inside else {}
    for name in ("spaces_app", "modeling_anomalygpt", "examples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    unwanted = ("__pycache__", "*.pyc")
    shutil.copytree(_PAGE, folder / "spaces_app", ignore=shutil.ignore_patterns(*unwanted, "examples", *_ROOT_FILES))
    unwanted += ("anomalygpt_small", *(("anomalygpt_tiny",) if model else ()))  # the page runs no small model
    shutil.copytree(HERE, folder / "modeling_anomalygpt", ignore=shutil.ignore_patterns(*unwanted))
    place = pathlib.PurePath("modeling_anomalygpt", "anomalygpt_tiny")
    files = {place / name: weights[name] for name in weights.keys() - code_files().keys()}
    files |= {pathlib.PurePath("examples", path.relative_to(_EXAMPLES)): path for path in _EXAMPLES.glob("*/*/*.jpg")}
    files |= _front_files(None if inside else model, title)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            write_atomically(folder / path, content)
        else:
            shutil.copyfile(content, folder / path)
    return folder


def _refuse_sources(folder: pathlib.Path, *models: str) -> None:
    """Refuses a folder that holds, or lies in, what is copied: it would be removed first, or copied into itself."""
    place = folder.resolve()
    own = [source.resolve() for source in (_PAGE, HERE, _EXAMPLES)]
    holds = any(one.is_relative_to(place) for one in (*own, *(pathlib.Path(model).resolve() for model in models)))
    if holds or any(map(place.is_relative_to, own)):
        raise ValueError(f"`folder` must be apart from what is copied, got {str(folder)!r}. Choose another one.")


def _front_files(model: str | None, title: str | None) -> dict[str, str | pathlib.Path]:
    """The files of the Space's first folder, with title and model where they are given."""
    texts = {name: (_PAGE / name).read_text(encoding="utf-8") for name in _ROOT_FILES}
    _, front, body = texts["README.md"].split("---\n", 2)
    if title:
        quoted = " ".join(title.split()).replace("\\", "\\\\").replace('"', '\\"')
        front = front.replace("title: AnomalyGPT\n", f'title: "{quoted}"\n')
    if model:
        # https://huggingface.co/docs/hub/spaces-config-reference
        front += f"models:\n  - {model}\npreload_from_hub:\n  - {model}\n"
        if _MODEL_VARIABLE not in texts["app.py"]:
            raise RuntimeError("app.py no longer reads ANOMALYGPT_MODEL as `write_space` expects it.")
        texts["app.py"] = texts["app.py"].replace(_MODEL_VARIABLE, _MODEL_VARIABLE.replace("None", repr(model)))
    texts["README.md"] = f"---\n{front}---\n{body}"
    for name, said in (("README.md", "The model is"), ("README_zh.md", "模型为")) if model else ():
        link = f"{said} [{model}](https://huggingface.co/{model})."
        texts[name] = re.sub(r"(?s)(?<=<!-- model -->\n).*?(?=\n<!-- end model -->)", link, texts[name])
    # The weights are larger than what Git takes as a plain file on the Hub.
    return texts | {".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
