r"""The format of a conversation: its pieces, the chat template that writes them, and what a conversation may hold.

Knows strings; knows no tokenizer and no picture. The format is that of AnomalyGPT
(https://huggingface.co/papers/2308.15366), which tokenizes it piece by piece:

| piece | what |
|---|---|
| `### Human: <Img>` | after the start token, where the tokenizer has one |
| image tokens | placeholders for the projected picture |
| `</Img> ` | |
| prompt tokens | placeholders for the prompt learner's vectors |
| `question\n### Assistant:` | |
| `answer\n###` | in a history, or as the target of training |
| `Human: question\n### Assistant:` | each later turn |
"""

import re
from collections.abc import Sequence
from typing import Any

SEPARATOR = "\x1e"
"""U+001E: stands before every piece of a rendered conversation; is split at and never tokenized."""

IMAGE_PLACEHOLDER = "<image>"
"""Piece of a rendered conversation that stands for a run of placeholder tokens, whatever the tokenizer calls them."""

CHAT_TEMPLATE = r"""{%- set mark = '\x1e' -%}
{%- set chat = namespace(image=false, system='', first=true) -%}
{%- for message in messages -%}
{%- set words = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set words.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{%- set chat.image = true -%}
{%- elif part['type'] == 'text' -%}
{%- set words.text = words.text ~ (' ' if words.text else '') ~ part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set text = words.text | replace(mark, '') | replace('###', '') | trim -%}
{%- if message['role'] == 'system' -%}
{%- set chat.system = text ~ ' ' -%}
{%- elif message['role'] == 'assistant' -%}
{{- mark ~ text ~ '\n###' -}}
{%- elif not chat.first -%}
{{- mark ~ 'Human: ' ~ text ~ '\n### Assistant:' -}}
{%- else -%}
{%- set chat.first = false -%}
{%- if chat.image -%}
{{- mark ~ '### Human: <Img>' ~ mark ~ '<image>' ~ mark ~ '</Img> ' ~ mark ~ '<image>' ~ mark -}}
{%- else -%}
{{- mark ~ '### Human: ' -}}
{%- endif -%}
{{- chat.system ~ text ~ '\n### Assistant:' -}}
{%- endif -%}
{%- endfor -%}"""
"""The chat template; what a user writes can neither end a piece nor start a turn. The last question always asks for an
answer, so `add_generation_prompt` changes nothing."""


def pieces_of(rendered: str) -> list[str]:
    r"""Split a rendered conversation.

    Args:
        rendered (`str`): What `CHAT_TEMPLATE` wrote: `SEPARATOR` stands before every piece.

    Returns:
        `list[str]`: The pieces, without separators.

    Example:
    ```python
    >>> pieces_of("\x1e### Human: <Img>\x1e<image>")
    ['### Human: <Img>', '<image>']

    ```
    """
    return rendered.split(SEPARATOR)[1:]


def is_rendered(text: str) -> bool:
    """Whether a text has the pieces of a rendered conversation, rather than being a plain question.

    Args:
        text (`str`): Any text.

    Returns:
        `bool`: True for what `CHAT_TEMPLATE` writes.
    """
    pieces = pieces_of(text)
    asked = any(piece.endswith("### Assistant:") for piece in pieces)
    return text.startswith(f"{SEPARATOR}### Human: ") and asked and pieces.count(IMAGE_PLACEHOLDER) in (0, 2)


def before_question(rendered: str, sentence: str) -> str:
    """Put a sentence before the first question of a rendered conversation.

    Args:
        rendered (`str`): What `CHAT_TEMPLATE` wrote.
        sentence (`str`): Text with the space that shall follow it, if any.

    Returns:
        `str`: The rendered conversation with the sentence.
    """
    pieces = pieces_of(rendered)
    index = next(i for i, piece in enumerate(pieces) if "### Assistant:" in piece)
    start = "### Human: " if pieces[index].startswith("### Human: ") else ""
    sentence = sentence.replace(SEPARATOR, "").replace("###", "")
    pieces[index] = start + sentence + pieces[index][len(start) :]
    return "".join(SEPARATOR + piece for piece in pieces)


def without_mark(text: str) -> str:
    r"""Drop the mark that ends an answer, also where generation stopped inside it.

    Args:
        text (`str`): Generated text.

    Returns:
        `str`: The text before a closing `##` or `###`.

    Example:
    ```python
    >>> without_mark("No, there is no anomaly.\n###")
    'No, there is no anomaly.'

    ```
    """
    return re.sub(r"\s*##+\s*$", "", text)


def with_image(messages: Sequence[dict[str, Any]], image: bool) -> list[dict[str, Any]]:
    """Messages whose first user turn has a picture, or none.

    Args:
        messages (`list[dict]`): Messages of `role` and `content`.
        image (`bool`): Whether the first user turn has a picture.

    Returns:
        `list[dict]`: New messages; contents of users are lists of parts.
    """
    changed, first = [], True
    for message in messages:
        if message["role"] == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
            parts = [part for part in parts if part["type"] != "image"]
            message = {"role": "user", "content": [{"type": "image"}, *parts] if image and first else parts}
            first = False
        changed.append(dict(message))
    return changed


def check_messages(messages: Any) -> None:
    """Refuse what the format cannot express.

    Args:
        messages (`list[dict]`): Messages of `role` and `content`.

    Raises:
        ValueError: If there is no message, the roles do not alternate, or a picture stands anywhere but in the first
            user message.
    """
    if not messages or any(not {"role", "content"} <= set(message) for message in messages):
        raise ValueError("`conversation` must hold messages with 'role' and 'content'. Begin with a user's question.")
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    for i, message in enumerate(messages[leading:]):
        if message["role"] != ("assistant" if i % 2 else "user"):
            raise ValueError(
                "`conversation` must begin with 'user' (after 'system', if any) and alternate with 'assistant', got "
                f"{message['role']!r} at turn {i + 1}. Merge or reorder the messages."
            )
        parts = [] if isinstance(message["content"], str) else message["content"] or []
        pictures = sum(part["type"] in ("image", "image_url") for part in parts)
        if pictures > (i == 0):
            raise ValueError(
                f"`conversation` must have its only picture in the first user message, got {pictures} at turn "
                f"{i + 1}. "
                "Start a new conversation for another picture; good examples go into `references`."
            )
        unknown = {str(part["type"]) for part in parts} - {"text", "image", "image_url"}
        if unknown:
            raise ValueError(
                f"`conversation` must hold parts of type 'text' or 'image', got {', '.join(sorted(unknown))}. "
                "Leave the others out."
            )
    if leading == len(messages):
        raise ValueError("`conversation` must hold a user's message, got only 'system'. Ask a question.")


__all__ = [
    "CHAT_TEMPLATE",
    "IMAGE_PLACEHOLDER",
    "SEPARATOR",
    "before_question",
    "check_messages",
    "is_rendered",
    "pieces_of",
    "with_image",
    "without_mark",
]
