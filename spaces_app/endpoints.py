"""The two named endpoints for programs, `/inspect` and `/chat`, with plain inputs and outputs (docs/space.md)."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from .callbacks import MODEL_QUEUE
from .conversation import asks_for_overlay, open_conversation, overlay_file, reply
from .engine import Engine
from .inspection import Settings, inspect_picture
from .layout import LOCALIZATIONS
from .session import Session
from .uploads import RefusedError, gallery_files, reason_in_words
from .words import words_of


def add_endpoints(session: gr.State, engine: Engine) -> None:
    """Adds both endpoints to an open `gr.Blocks`; their components are not shown.

    Args:
        session (`gr.State`): Carries the session of page and client alike.
        engine ([`Engine`]): The shared model.
    """

    def inspect(
        session: Session | None,
        image: str,
        references: list | None = None,
        category: str = "",
        description: str = "",
        language: str = "en",
        localization: str = "auto",
        rotations: bool = False,
        tile: float = 0,
        mm_per_pixel: float = 0,
        question: str = "",
    ) -> tuple[Session, dict, str | None]:
        """
        Inspects a photograph of a part, compared with photographs of good ones.

        Args:
            image: The photograph to inspect.
            references: Photographs of good parts, taken like the one to inspect. May be empty; then words decide.
            category: What the photograph shows, such as bolt.
            description: How a good one looks, one sentence; may be empty.
            language: en or zh.
            localization: auto, reference, text or mean.
            rotations: Whether turned copies of the references are learned, for parts that lie in any direction.
            tile: Side in pixels of the tiles of large pictures; 0 for none.
            mm_per_pixel: Scale for sizes in millimetres; 0 when it is unknown.
            question: First question; empty for whether there is any anomaly.

        Returns:
            The result (verdict, pred_score, log_odds, answer, regions, evidence, ...) and the overlay.
        """
        session = session or Session(engine)
        language = language or "en"
        try:
            _check("language", language, ("en", "zh"), "en")
            _check("localization", localization, LOCALIZATIONS, language)
            settings = Settings(
                category=category,
                description=description,
                question=question,
                language=language,
                localization=localization or "auto",
                rotations=rotations,
                tile=int(tile or 0),
                mm_per_pixel=mm_per_pixel,
            )
            session.result = None
            result = inspect_picture(engine, session, image, gallery_files(references), settings)
            open_conversation(session)
        except Exception as error:
            raise _shown_error(error, language) from None
        return session, result.to_dict(), overlay_file(session)

    def chat(
        session: Session | None,
        message: str,
        image: str | None = None,
        references: list | None = None,
        category: str = "",
        language: str = "en",
    ) -> Iterator[tuple[Session, str, str | None]]:
        """
        Asks about a photograph: the one given here, or else the one inspected last by this client.

        Args:
            message: The question, in English or Chinese, such as: Where is the anomaly? Highlight the anomalies.
            image: A photograph to inspect first; empty to go on talking about the last one.
            references: Photographs of good parts; only with an image.
            category: What the photograph shows; only with an image.
            language: en or zh: of what the page itself says.

        Returns:
            The answer as it grows, and the overlay where the question asks to see the places.
        """
        session = session or Session(engine)
        language = language or "en"
        try:
            _check("language", language, ("en", "zh"), "en")
            if image:
                session.result = None
                settings = Settings(category=category, language=language)
                inspect_picture(engine, session, image, gallery_files(references), settings)
                open_conversation(session)
            for answer in reply(engine, session, message, language):
                shows = asks_for_overlay(message) and session.result.anomaly_map is not None
                yield session, answer, session.messages[-1]["content"]["path"] if shows else None
        except Exception as error:
            raise _shown_error(error, language) from None

    with gr.Group(visible=False):
        image, references = gr.File(label="image"), gr.File(label="references", file_count="multiple")
        category, description = gr.Textbox("", label="category"), gr.Textbox("", label="description")
        language = gr.Textbox("en", label="language")
        localization = gr.Textbox("auto", label="localization")
        rotations, tile = gr.Checkbox(label="rotations"), gr.Number(0, label="tile")
        mm_per_pixel, question = gr.Number(0, label="mm_per_pixel"), gr.Textbox("", label="question")
        message = gr.Textbox(label="message")
        result, overlay = gr.JSON(label="result"), gr.File(label="overlay")
        answer = gr.Textbox(label="answer")
        gr.Button().click(
            inspect,
            [session, image, references, category, description, language, localization, rotations, tile]
            + [mm_per_pixel, question],
            [session, result, overlay],
            api_name="inspect",
            **MODEL_QUEUE,
        )
        gr.Button().click(
            chat,
            [session, message, image, references, category, language],
            [session, answer, overlay],
            api_name="chat",
            **MODEL_QUEUE,
        )


def _check(name: str, chosen: Any, choices: tuple[str, ...], language: str) -> None:
    if chosen not in choices:
        raise RefusedError(words_of(language)["bad_choice"].format(name=name, choices=", ".join(choices)))


def _shown_error(error: Exception, language: str) -> gr.Error:
    # Gradio shows messages of errors as HTML; file names in them must not act as markup.
    language = language if language in ("en", "zh") else "en"
    return gr.Error(escape(reason_in_words(error, language), quote=False), print_exception=False)


__all__ = ["add_endpoints"]
