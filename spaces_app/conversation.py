"""The conversation about the inspected picture: what is shown is kept here, what the model reads in the result."""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from modeling_anomalygpt.results import InspectionResult

from .engine import Engine, stream_answer
from .limits import MAX_TURNS
from .region_views import overlay
from .session import Session
from .uploads import RefusedError, clean_question
from .words import words_of

_HIGHLIGHT = re.compile(
    r"\b(high-?light|mark|outline|overlay|heat-?map|circle|point out)\b"
    r"|\bshow\b.*\b(where|anomal|defect|flaw|map|region)"
    r"|标出|标记|标注|标示|高亮|圈出|框出|指出|热图|叠加图|显示.*(异常|缺陷|区域|位置)",
    re.IGNORECASE,
)


def asks_for_overlay(question: str) -> bool:
    """Whether a question wants to see the places rather than to read of them.

    Example:
    ```python
    >>> [asks_for_overlay(text) for text in ("Highlight the anomalies", "请标出异常", "Where is the anomaly?")]
    [True, True, False]

    ```
    """
    return bool(_HIGHLIGHT.search(question))


def open_conversation(session: Session) -> None:
    """Begins the conversation with what the inspection asked and answered."""
    result = session.result
    if result.answer:
        session.messages = [_turn("user", result.question), _turn("assistant", result.answer)]


def reply(engine: Engine, session: Session, question: str, language: str) -> Iterator[str]:
    r"""
    Answers a question about the inspected picture; the answer so far comes again and again.

    Args:
        engine ([`Engine`]):
            The shared model.
        session ([`Session`]):
            Its `messages` hold the whole conversation as it is shown, the growing answer last.
        question (`str`):
            As typed.
        language (`str`):
            Of refusals; the answer follows the question's.

    Yields:
        `str`: The answer so far.

    Raises:
        RefusedError: If nothing was inspected, asked, or the conversation is too long.
    """
    words, question = words_of(language), clean_question(question)
    if session.result is None:
        raise RefusedError(words["inspect_first"])
    if not question:
        raise RefusedError(words["no_question"])
    if sum(message["role"] == "user" for message in session.messages) >= MAX_TURNS:
        raise RefusedError(words["too_many_turns"].format(limit=MAX_TURNS))
    chinese = bool(re.search(r"[\u4e00-\u9fff]", question))
    if asks_for_overlay(question):
        session.messages.append(_turn("user", question))
        yield _answer_with_overlay(session, "zh" if chinese else "en")
        return
    if session.result.image_tokens is None:
        raise RefusedError(words["no_language_model"])
    session.messages += [_turn("user", question), _turn("assistant", "")]
    shown, result, answer = session.messages[-1], session.result, ""
    turns = [*result.conversation, _turn("user", question)]
    with engine.turn():
        for piece in stream_answer(session.inspector, result, question):
            answer += piece
            shown["content"] = answer
            yield answer
    if not answer:
        shown["content"] = answer = "…"
        yield answer
    # Where a worker process answered, the turn is known only there.
    result.conversation = [*turns, _turn("assistant", answer)]


def shown_messages(session: Session, note: str = "") -> list[dict[str, Any]]:
    """The conversation for the page, which takes texts for HTML: all of them escaped.

    Args:
        session ([`Session`]): Whose `messages` hold the texts as they are.
        note (`str`, *optional*): A remark of the page's own, shown last and not kept.

    Returns:
        `list[dict]`: Turns with `role` and `content`.
    """
    messages = [*session.messages, *([_turn("assistant", note)] if note else [])]
    return [
        message | {"content": escape(message["content"], quote=False)}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]


def overlay_file(session: Session) -> str:
    """The overlay of the inspected picture as a file of the session."""
    path = session.new_file("overlay.png")
    overlay(session).save(path)
    return str(path)


def _answer_with_overlay(session: Session, language: str) -> str:
    text = _overlay_words(session.result, language)
    session.messages.append(_turn("assistant", text))
    if session.result.anomaly_map is not None:
        image = {"path": overlay_file(session), "alt_text": text}
        session.messages.append({"role": "assistant", "content": image})
    return text


def _overlay_words(result: InspectionResult, language: str) -> str:
    words = words_of(language)
    if not result.regions:
        return words["nothing_to_highlight"]
    key = "highlighted_one" if len(result.regions) == 1 else "highlighted_many"
    return words[key].format(count=len(result.regions))


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


__all__ = ["asks_for_overlay", "open_conversation", "overlay_file", "reply", "shown_messages"]
