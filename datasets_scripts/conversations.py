"""Conversations about ordinary pictures as a `datasets` builder: PandaGPT's instruction JSON and its pictures.

Mixed into training they keep the language model able to talk about what is not an anomaly.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .anomaly_builder import FolderBuilder, dataset_info
from .anomaly_files import check_data_dir, check_files_exist, list_folders, resolve_inside

PANDAGPT_FILE = "pandagpt4_visual_instruction_data.json"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_ROWS_PER_SHARD = 64


@dataclass
class ConversationsConfig(datasets.BuilderConfig):
    """What can be chosen of a set of conversations.

    Args:
        json_file (`str`, *optional*): Name of the JSON file in `data_dir`; default: PandaGPT's, or the only one there
            is.
        skip_missing (`bool`, defaults to `False`): Leave out conversations whose picture is missing, instead of
            refusing the set. For a part of the pictures.
    """

    json_file: str | None = None
    skip_missing: bool = False


def read_turns(conversation: Any, where: str) -> list[dict[str, str]]:
    r"""Turn one conversation of the JSON file into messages.

    Image placeholders written by LLaVA (`<image>`) are taken out: the processor sets its own.

    Args:
        conversation (`list[dict[str, str]]`): Turns with `from` (human or gpt) and `value`.
        where (`str`): Name of the entry; used in the messages.

    Returns:
        `list[dict[str, str]]`: Messages with `role` (user or assistant, in turn) and `content`.

    Raises:
        ValueError: If turns are malformed, empty, out of turn, or the last one is a question.

    Example:
    ```python
    >>> read_turns([{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}], "entry 0")
    [{'role': 'user', 'content': 'What is it?'}, {'role': 'assistant', 'content': 'A cat.'}]

    ```
    """
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"`conversation` must be a list of turns, got {_short(conversation)} ({where}).")
    messages = []
    for number, turn in enumerate(conversation):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f"Turns must have `from` and `value`, got {_short(turn)} ({where}, turn {number}).")
        role = _ROLES.get(str(turn.get("from")).casefold())
        expected = "user" if number % 2 == 0 else "assistant"
        if role != expected:
            raise ValueError(
                f"Turns must alternate, human first, got {turn.get('from')!r} where {expected} was due "
                f"({where}, turn {number})."
            )
        content = re.sub(r"\s*<image>\s*", " ", turn["value"]).strip()
        if not content:
            raise ValueError(f"Turns must not be empty, got {turn['value']!r} ({where}, turn {number}).")
        messages.append({"role": role, "content": content})
    if len(messages) % 2:
        raise ValueError(f"Conversations must end with an answer, got {len(messages)} turns ({where}).")
    return messages


class Conversations(FolderBuilder):
    """PandaGPT's visual instructions.

    https://huggingface.co/datasets/openllmplayground/pandagpt_visual_instruction_dataset

    The JSON file is a list of `{"image_name": ..., "conversation": [{"from", "value"}, ...]}`. One split, `train`.

    Args:
        data_dir (`str` or `os.PathLike`, *optional*): Folder that holds the JSON file and the pictures, in `images`
            or beside it.
        kwargs: `json_file`, `skip_missing`, and as for `datasets.GeneratorBasedBuilder`.
    """

    BUILDER_CONFIG_CLASS = ConversationsConfig
    LAYOUT = f"<data_dir>/{PANDAGPT_FILE} (or another .json), <data_dir>/images/*"
    FEATURES = datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "image_id": datasets.Value("string"),
            "split": datasets.Value("string"),
        }
    )
    INFO = dataset_info("conversations")

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        data_dir = check_data_dir(self.config.data_dir, self.LAYOUT)
        rows = self._find_rows(data_dir)
        shards = [tuple(rows[start : start + _ROWS_PER_SHARD]) for start in range(0, len(rows), _ROWS_PER_SHARD)]
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": shards})]

    def _generate_examples(self, shards: list[tuple[dict[str, Any], ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for shard in shards:
            for row in shard:
                yield row["image_id"], row

    def _find_rows(self, data_dir: Path) -> list[dict[str, Any]]:
        """Read the JSON file, and check that its turns alternate and its pictures are there."""
        path = self._find_json(data_dir)
        try:
            entries = json.loads(path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} must be JSON, got {str(error)[:80]}.") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{str(path)!r} must be JSON, got an error at line {error.lineno}: {error.msg}."
            ) from error
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{str(path)!r} must be a list of conversations, got {_short(entries)}.")
        folder = data_dir / "images" if (data_dir / "images").is_dir() else data_dir
        there = _listing(folder)
        rows = []
        for number, entry in enumerate(entries):
            where = f"{path.name}, entry {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("image_name"), str):
                raise ValueError(f"Entries must have `image_name` and `conversation`, got {_short(entry)} ({where}).")
            image = str(resolve_inside(folder, entry["image_name"], where))
            messages = read_turns(entry.get("conversation"), where)
            image_id = f"{number:06d}/{entry['image_name']}"
            rows.append({"image": image, "messages": messages, "image_id": image_id, "split": "train"})
        if self.config.skip_missing:
            rows = [row for row in rows if row["image"] in there]
            if not rows:
                raise FileNotFoundError(
                    f"At least one picture of {str(path)!r} must exist, got none in {str(folder)!r}."
                )
        elif any(row["image"] not in there for row in rows):
            named_in = f"{str(path)!r} (`skip_missing=True` reads the rest)"
            check_files_exist([row["image"] for row in rows], named_in)
        return rows

    def _find_json(self, data_dir: Path) -> Path:
        """Choose the JSON file: the one asked for, PandaGPT's, or the only one."""
        found = sorted(path.name for path in data_dir.glob("*.json"))
        name = self.config.json_file or (PANDAGPT_FILE if PANDAGPT_FILE in found else None)
        if name is None and len(found) == 1:
            name = found[0]
        if name is None or name not in found:
            raise FileNotFoundError(
                f"`json_file` must name a .json file in `data_dir`, got {name!r}; "
                f"there: {', '.join(found) or 'none'}. Expected layout: {self.LAYOUT}."
            )
        return data_dir / name


def _listing(folder: Path) -> set[str]:
    """List all files below a folder: faster than asking for 160,000 of them one by one."""
    paths = {str(path) for path in folder.iterdir() if path.is_file()}
    for inner in list_folders(folder):
        paths |= _listing(inner)
    return paths


def _short(value: Any) -> str:
    """Quote a value, cut to what fits in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
