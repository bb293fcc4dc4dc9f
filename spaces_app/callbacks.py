"""What the page does: connects its components with inspection, conversation and batch. One visitor, one session."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from . import region_views
from .batch import batch_overlay, batch_rows, inspect_batch, write_downloads
from .cards import busy_card, error_card, evidence_table, region_card, regions_table, verdict_card, welcome_card
from .conversation import open_conversation, reply, shown_messages
from .engine import Engine
from .inspection import Settings, inspect_picture
from .layout import Page
from .measure import add_point, draw_points, millimetres_per_pixel, reduced
from .session import Session
from .style import BROWSER_LANGUAGE, SHOW_VERDICT, TOGGLE_THEME
from .uploads import RefusedError, gallery_files, open_picture, reason_in_words
from .words import words_of

MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}
BATCH_QUEUE = {"concurrency_id": "batch", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private"}
_SETTINGS = ("category", "description", "question", "language", "localization", "use_language", "rotations", "tile")
_SETTINGS += ("mm_per_pixel",)


def connect(page: Page, engine: Engine) -> None:
    """Connects all components of a page, inside its open `gr.Blocks`.

    Args:
        page ([`Page`]): From [`build_layout`].
        engine ([`Engine`]): The shared model.
    """
    # The picture's path is taken as it is: what cannot be opened is refused in words by `open_picture`, where Gradio's
    # own opening would end in an error without any.
    page["picture"].preprocess = lambda payload: None if payload is None else payload.path
    _connect_language(page)
    _connect_inspection(page, engine)
    _connect_scale(page, engine)
    _connect_chat(page, engine)
    _connect_batch(page, engine)


def _connect_language(page: Page) -> None:
    def say(language: str, session: Session | None) -> list[Any]:
        shown = gr.skip()
        if session is None or session.result is None:
            shown = welcome_card(language)
        else:
            shown = verdict_card(session.result, language)
        return [*page.in_language(language), shown]

    def greet(language: str) -> Any:
        return language if language == "zh" else gr.skip()

    page["theme"].click(None, js=TOGGLE_THEME, **PRIVATE)
    page["language"].change(
        say, [page["language"], page["session"]], [*page.worded, page["verdict"]], show_progress="hidden", **PRIVATE
    )
    gr.on(
        [page["blocks"].load], greet, page["language"], page["language"], js=BROWSER_LANGUAGE, queue=False, **PRIVATE
    )


def _connect_inspection(page: Page, engine: Engine) -> None:
    names = ("verdict", "views", "overlay", "slider", "regions", "evidence", "region", "chatbot")
    shown = [page["session"], *(page[name] for name in names)]

    def begin(language: str) -> list[Any]:
        return [busy_card(language), gr.update(interactive=False), gr.update(interactive=True)]

    def end() -> list[Any]:
        return [gr.update(interactive=True), gr.update(interactive=False)]

    def run(session: Session | None, picture: str | None, references: list | None, *fields: Any) -> list[Any]:
        settings, session = _settings(fields), session or Session(engine)
        session.result = None
        try:
            inspect_picture(engine, session, picture, gallery_files(references), settings)
            open_conversation(session)
            return [session, *_shown(session, settings.language)]
        except Exception as error:
            card = error_card(reason_in_words(error, settings.language), settings.language)
            hidden = gr.update(visible=False)
            return [session, card, hidden, None, None, "", "", hidden, []]

    def load_example(event: gr.SelectData) -> list[Any]:
        example = page.examples[event.index]
        return [example.picture, list(example.references), example.category, ""]

    def failed(language: str) -> str:
        return error_card(words_of(language)["not_shown"], language)

    def stopped(language: str) -> list[Any]:
        words = words_of(language)
        card = error_card(words["stopped_reason"], language).replace(words["not_inspected"], words["stopped"])
        return [card, *end()]

    inputs = [page["session"], page["picture"], page["references"], *(page[name] for name in _SETTINGS)]
    buttons = [page["inspect"], page["stop"]]
    starts = [page["inspect"].click]
    if page.examples:
        filled = [page["picture"], page["references"], page["category"], page["description"]]
        starts.append(page["examples"].select(load_example, None, filled, show_progress="hidden", **PRIVATE).then)
    runs = []
    for start in starts:
        begun = start(
            begin, page["language"], [page["verdict"], *buttons], js=SHOW_VERDICT, queue=False,
            show_progress="hidden", **PRIVATE,
        )  # fmt: skip
        runs.append(begun.then(run, inputs, shown, show_progress="hidden", **MODEL_QUEUE, **PRIVATE))
        runs[-1].failure(failed, page["language"], page["verdict"], queue=False, show_progress="hidden", **PRIVATE)
        runs[-1].then(end, None, buttons, queue=False, show_progress="hidden", **PRIVATE)
    page["stop"].click(stopped, page["language"], [page["verdict"], *buttons], cancels=runs, queue=False, **PRIVATE)
    page["overlay"].select(
        _region_shown,
        [page["session"], page["language"]],
        [page["region"], page["region_card"], page["region_crop"], page["nearest_good"]],
        show_progress="hidden",
        **PRIVATE,
    )


def _shown(session: Session, language: str) -> list[Any]:
    """Values of everything that shows a result."""
    result = session.result
    return [
        verdict_card(result, language),
        gr.update(visible=True),
        gr.update(
            value=region_views.annotations(session, language), color_map=region_views.colours(session, language)
        ),
        region_views.comparison(session),
        regions_table(result, language),
        evidence_table(result, language),
        gr.update(visible=False),
        shown_messages(session),
    ]


def _region_shown(session: Session | None, language: str, event: gr.SelectData) -> list[Any]:
    """The clicked region, enlarged, beside the most similar good place."""
    index = event.index if isinstance(event.index, int) else -1
    if session is None or session.result is None or not 0 <= index < len(session.result.regions):
        return [gr.update(visible=False), "", None, None]
    region = session.result.regions[index]
    good = region_views.nearest_good_crop(session, region)
    return [
        gr.update(visible=True),
        region_card(region, index + 1, language),
        region_views.region_crop(session, region),
        gr.update(value=good, visible=good is not None),
    ]


def _connect_scale(page: Page, engine: Engine) -> None:
    def show(session: Session | None, picture: str | None, language: str) -> list[Any]:
        session = session or Session(engine)
        session.points = []
        try:
            shown = reduced(open_picture(picture, language))[0] if picture else None
        except RefusedError:
            shown = None  # the reason comes when it is inspected
        return [session, shown]

    def click(
        session: Session | None, picture: str | None, length: float | None, language: str, event: gr.SelectData
    ) -> list[Any]:
        session = session or Session(engine)
        if not picture:
            return [session, None, gr.skip(), gr.skip()]
        try:
            shown, factor = reduced(open_picture(picture, language))
        except RefusedError as error:
            return [session, None, gr.skip(), _note(str(error))]
        session.points = add_point(session.points, (round(event.index[0]), round(event.index[1])))
        scale, note = _scale_found(session.points, length, factor, language)
        return [session, draw_points(shown, session.points), scale if scale else gr.skip(), note]

    def length_changed(session: Session | None, picture: str | None, length: float | None, language: str) -> list[Any]:
        if session is None or len(session.points) < 2 or not picture:
            return [gr.skip(), gr.skip()]
        factor = reduced(open_picture(picture, language))[1]
        scale, note = _scale_found(session.points, length, factor, language)
        return [scale if scale else gr.skip(), note]

    hidden = {"show_progress": "hidden"} | PRIVATE
    common = [page["session"], page["picture"]]
    page["picture"].change(show, [*common, page["language"]], [page["session"], page["scale_picture"]], **hidden)
    page["scale_picture"].select(
        click,
        [*common, page["known_length"], page["language"]],
        [page["session"], page["scale_picture"], page["mm_per_pixel"], page["scale_state"]],
        **hidden,
    )
    page["known_length"].change(
        length_changed,
        [*common, page["known_length"], page["language"]],
        [page["mm_per_pixel"], page["scale_state"]],
        **hidden,
    )


def _scale_found(
    points: list[tuple[int, int]], length: float | None, factor: float, language: str
) -> tuple[float | None, str]:
    words = words_of(language)
    if len(points) < 2:
        return None, _note(words["scale_first"])
    scale = millimetres_per_pixel(points, length, factor)
    if scale is None:
        return None, _note(words["scale_zero" if points[0] == points[1] else "scale_length"])
    return round(scale, 6), _note(words["scale_set"].format(mm=f"{scale:.4g}", pixels=f"{length / scale:.0f}"))


def _note(text: str) -> str:
    from html import escape

    return f"<p class='ag-none'>{escape(text)}</p>"


def _connect_chat(page: Page, engine: Engine) -> None:
    def talk(session: Session | None, message: str, language: str) -> Iterator[list[Any]]:
        session = session or Session(engine)
        try:
            for _ in reply(engine, session, message, language):
                yield [session, shown_messages(session), ""]
        except Exception as error:
            yield [session, shown_messages(session, reason_in_words(error, language)), gr.skip()]

    def suggestion(key: str) -> Callable[..., Iterator[list[Any]]]:
        def ask(session: Session | None, language: str) -> Iterator[list[Any]]:
            words = words_of(language)
            yield from talk(session, words.get(f"{key}_full", words[key]), language)

        return ask

    def clear(session: Session | None) -> Session | None:
        if session is not None and session.result is not None:
            session.messages, session.result.conversation = [], []
        return session

    shown, hidden = [page["session"], page["chatbot"], page["message"]], {"show_progress": "hidden"} | PRIVATE
    options = hidden | MODEL_QUEUE
    inputs = [page["session"], page["message"], page["language"]]
    events = [start(talk, inputs, shown, **options) for start in (page["message"].submit, page["send"].click)]
    events += [
        page[key].click(suggestion(key), [page["session"], page["language"]], shown, **options)
        for key in ("ask_where", "ask_what", "ask_highlight")
    ]
    page["stop_chat"].click(None, cancels=events, **PRIVATE)
    page["chatbot"].clear(clear, page["session"], page["session"], queue=False, **hidden)


def _connect_batch(page: Page, engine: Engine) -> None:
    shown = [page["session"], page["batch_table"], page["batch_state"], page["downloads"], page["batch_picture"]]
    hidden = gr.update(visible=False)

    def run(session: Session | None, files: list | None, references: list | None, *fields: Any) -> Iterator[list[Any]]:
        settings, session = _settings(fields), session or Session(engine)
        language, words, total = settings.language, words_of(settings.language), len(files or ())
        yield [session, [], _note(words["batch_state"].format(done=0, total=total)), hidden, hidden]
        try:
            results = []
            for results in inspect_batch(engine, session, files or [], gallery_files(references), settings):
                state = _note(words["batch_state"].format(done=len(results), total=total))
                yield [session, batch_rows(results, language), state, gr.skip(), gr.skip()]
            files_shown = gr.update(value=write_downloads(session), visible=True)
            yield [session, gr.skip(), _note(batch_summary(results, language)), files_shown, gr.skip()]
        except Exception as error:
            yield [session, [], error_card(reason_in_words(error, language), language), hidden, hidden]

    def stopped(session: Session | None, language: str) -> list[Any]:
        if session is None or session.batch is None or not session.batch.report.results:
            return [gr.skip(), gr.skip()]
        done, total = len(session.batch.report.results), len(session.batch.names)
        note = words_of(language)["batch_stopped"].format(done=done, total=total)
        return [_note(note), gr.update(value=write_downloads(session), visible=True)]

    def row_shown(session: Session | None, event: gr.SelectData) -> Any:
        path = None if session is None else batch_overlay(session, event.index[0])
        return gr.update(value=path, visible=path is not None)

    inputs = [page["session"], page["batch_files"], page["references"], *(page[name] for name in _SETTINGS)]
    running = page["batch_run"].click(run, inputs, shown, show_progress="hidden", **BATCH_QUEUE, **PRIVATE)
    page["batch_stop"].click(
        stopped,
        [page["session"], page["language"]],
        [page["batch_state"], page["downloads"]],
        cancels=[running],
        **PRIVATE,
    )
    page["batch_table"].select(row_shown, page["session"], page["batch_picture"], show_progress="hidden", **PRIVATE)


def batch_summary(results: list[Any], language: str) -> str:
    """Counts of a finished batch in one line."""
    words = words_of(language)
    counts = {kind: sum(result.verdict == kind for result in results) for kind in ("anomalous", "normal")}
    text = words["batch_done"].format(total=len(results), **counts)
    for kind, key in (("uncertain", "batch_uncertain"), ("error", "batch_errors")):
        if count := sum(result.verdict == kind for result in results):
            text += words[key].format(count=count)
    return text + ("。" if language == "zh" else ".")


def _settings(fields: tuple[Any, ...]) -> Settings:
    return Settings(**dict(zip(_SETTINGS, fields, strict=True)))


__all__ = ["MODEL_QUEUE", "batch_summary", "connect"]
