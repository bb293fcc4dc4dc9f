"""The page and its endpoints: `python app.py` in a Space, or `anomalygpt demo`."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow down whoever shares the cores

import atexit
import importlib.util
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from modeling_anomalygpt.line.database import VERDICTS, ResultsDatabase
from modeling_anomalygpt.line.parts import PartStore
from modeling_anomalygpt.prompts import DESCRIPTIONS
from spaces_app import drawing, shift, views
from spaces_app import engine as work  # before anything that imports torch (ZeroGPU)
from spaces_app.engine import Engine, RefusedError, Session, Settings, reason_in_words
from spaces_app.views import words_of

SOURCES = ["upload", "webcam", "clipboard"]
LOCALIZATIONS = ("auto", "reference", "text", "mean")
SETTINGS = (
    "category", "description", "question", "language", "localization", "use_language", "rotations", "align",
    "presence", "tile", "mm_per_pixel", "part",
)  # fmt: skip
GOOD = ("references", "region_editor")
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 2 * work.MAX_OWN_WAITING}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
# A row clicked while another one loads would be dropped by "once", and "always_last" would show the first again.
EACH_IN_ORDER = QUIET | {"trigger_mode": "multiple", "concurrency_limit": 1}

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei"]
# What lies outside the page's own container is out of reach of `css=`.
_HEAD = """<style>.gradio-container { padding: 10px 14px !important; }
@media (max-width: 700px) {
  .gradio-container { padding: 4px !important; } .gradio-container .main.app { padding: 8px !important; }
}</style>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
%3Ccircle cx='14' cy='14' r='9' fill='none' stroke='%230d9488' stroke-width='4'/%3E\
%3Cpath d='M21 21l8 8' stroke='%230d9488' stroke-width='4' stroke-linecap='round'/%3E\
%3Ccircle cx='14' cy='14' r='3' fill='%23d9322c'/%3E%3C/svg%3E">"""
_TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"
_BROWSER_LANGUAGE = "() => (navigator.language || 'en').toLowerCase().startsWith('zh') ? 'zh' : 'en'"
_TELL_READERS = "language => { document.documentElement.lang = language; }"  # that a screen reader has the right voice
_SHOW_VERDICT = """(session, language) => {
  if (window.innerWidth < 900) {
    document.getElementById('verdict')?.scrollIntoView({ behavior: 'smooth', block: 'start' });
  }
  return [session, language];
}"""
_CLIENT = """from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # or the id of a Space
result, overlay = client.predict(
    handle_file("photo.jpg"), [handle_file("good_1.jpg"), handle_file("good_2.jpg")], "bolt", api_name="/inspect"
)
print(result["verdict"], result["answer"], overlay)
print(client.predict("Where is the anomaly?", api_name="/chat")[0])"""


# Start


def launch_app(
    model: str | None = None, parts: PartStore | None = None, results: str | os.PathLike | None = None, **options: Any
) -> tuple[gr.Blocks, str]:
    """Loads the model and serves the page.

    Args:
        model (`str`, *optional*): Folder or Hub id; `None` for the embedded checkpoint.
        parts ([`PartStore`], *optional*): Stored parts that may be chosen instead of good pictures; for a page of
            one's own, never for a public one.
        results (`str` or `os.PathLike`, *optional*): Folder of a shift's results, to look at and to correct; likewise.
        options: Of `gr.Blocks.launch`, such as `server_port`, `share`, `mcp_server`, `prevent_thread_lock`.

    Returns:
        `tuple(gr.Blocks, str)`: The page, and its local address.

    Raises:
        ValueError: If `mcp_server` is asked for without the package for it, **or** the port cannot be used, **or** the
            page is public and would show what is stored here, **or** there are no results.
    """
    for name, local in (("parts", parts), ("results", results)):
        if local is not None:
            if options.get("share") or os.environ.get("SPACE_ID"):
                raise ValueError(
                    f"`{name}` must be None on a public page, got a folder. Leave the public address out."
                )
            options["share"] = False  # also where the environment asks for it
    if results is not None:
        ResultsDatabase(results).close()
        parts = parts or PartStore()
    if options.get("mcp_server") and importlib.util.find_spec("mcp") is None:
        raise ValueError("`mcp` must be installed for the MCP server, got none. Run: pip install 'mcp>=1.21,<2'.")
    _check_port(options.get("server_port"), options.get("server_name"))
    if "GRADIO_TEMP_DIR" not in os.environ:  # uploads go to a folder of this process, deleted when it ends
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="anomalygpt-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    engine = Engine.load(model)
    engine.parts, engine.results = parts, None if results is None else pathlib.Path(results)
    blocks = build_app(engine)
    fixed = {
        "theme": _theme(),
        "css": (views.HERE / "style.css").read_text(encoding="utf-8"),
        "js": (views.HERE / "page.js").read_text(encoding="utf-8"),
        "head": _HEAD,
        "ssr_mode": False,
        "footer_links": ["api"],
        "max_file_size": work.MAX_FILE_SIZE,
        "state_session_capacity": work.MAX_SESSIONS,
        "allowed_paths": [str(views.EXAMPLES_FOLDER)],
        "show_error": False,
    }
    _, address, _ = blocks.launch(**(fixed | options))
    return blocks, address


def build_app(engine: Engine) -> gr.Blocks:
    """The page, not launched, with its queue."""
    with gr.Blocks(title="AnomalyGPT", analytics_enabled=False, delete_cache=(600, work.FILE_SECONDS)) as blocks:
        page = build_layout(with_shift=engine.results is not None)
        # The picture's path is taken as it is: what cannot be opened is refused in words by `open_picture`, where
        # Gradio's own opening would end in an error without any.
        page["picture"].preprocess = lambda payload: None if payload is None else payload.path
        _connect_language(page, blocks)
        if engine.parts is not None:
            _connect_parts(page, blocks, engine)
        _connect_inspection(page, engine)
        _connect_scale(page, engine)
        _connect_region(page, engine)
        _connect_chat(page, engine)
        _connect_batch(page, engine)
        if engine.results is not None:
            _connect_shift(page, engine)
        _add_endpoints(page["session"], engine)
    return blocks.queue(max_size=work.MAX_WAITING, default_concurrency_limit=8)


def _check_port(port: int | None, host: str | None) -> None:
    """Refused before the model is loaded, which takes long."""
    if port is None:
        return
    if not 0 < port < 65536:
        raise ValueError(f"`port` must be from 1 to 65535, got {port}. The usual one is 7860.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"`port` must be free, got {port}: {error.strerror or error}. Choose another.") from error


def _theme() -> gr.themes.Base:
    """Slate with one accent, fonts of the visitor's own system; nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=[*_FONTS, "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        block_shadow="none",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
    )


# Components


LABELLED = (
    "tab_inspect", "tab_batch", "tab_about", "tab_regions", "tab_compare", "description", "scale", "known_length",
    "mm_per_pixel", "scale_picture", "settings", "use_language", "rotations", "align", "presence", "tile", "question",
    "overlay", "slider", "region_crop", "nearest_good", "batch_files", "downloads", "batch_picture", "region_fold",
    "tab_shift", "shift_since", "shift_picture", "shift_drift",
)  # fmt: skip
BUTTONS = (
    "theme", "inspect", "stop", "ask_where", "ask_what", "ask_highlight", "send", "batch_run", "region_find",
    "region_clear", "shift_refresh", "say_normal", "say_anomalous", "say_undo",
)  # fmt: skip
HEADS = ("head_picture", "head_references", "head_part", "head_examples", "chat")


def page_texts(language: str, examples: Sequence[tuple]) -> dict[str, dict[str, Any]]:
    """What each component says: its texts by their properties."""
    words = words_of(language)
    texts = {name: {"label": words[name]} for name in LABELLED}
    texts |= {name: {"value": words[name]} for name in (*BUTTONS, "batch_intro", "batch_empty")}
    texts |= {name: {"value": f"<h2>{words[name]}</h2>"} for name in HEADS}
    texts |= {name: {"value": words["stop"]} for name in ("stop_chat", "batch_stop")}
    texts |= {name: {"value": views.note(words[name])} for name in ("scale_hint", "scale_none", "region_hint")}
    texts["head_references"]["value"] += f"<p>{words['hint_references']}</p>"
    texts["description"]["placeholder"] = words["description_hint"]
    texts["shift_since"]["placeholder"] = words["shift_since_hint"]
    verdicts = [(words["shift_all"], ""), *((words[f"verdict_{kind}"], kind) for kind in VERDICTS)]
    captions = {
        picture: words["example"].format(category=words[f"category_{category}"], defect=words[f"defect_{kind}"])
        for picture, _, category, kind in examples
    }
    kinds = [(words[f"localization_{kind}"], kind) for kind in LOCALIZATIONS]
    return texts | {
        "brand": {"value": f"<h1>{words['title']}</h1><p>{words['tagline']}</p>"},
        "category": {"label": words["category"], "choices": category_choices(language)},
        "localization": {"label": words["localization"], "choices": kinds},
        "examples": {"value": list(captions.items())},
        "evidence_fold": {"label": words["evidence"]},
        "chatbot": {"placeholder": words["chatbot_hint"]},
        "message": {"placeholder": words["message_hint"]},
        "batch_table": {"label": words["batch_table"], "headers": work.batch_heads(language)},
        "shift_verdict": {"label": words["shift_verdict"], "choices": verdicts},
        "shift_table": {"label": words["shift_table"], "headers": [words[key] for key in shift.HEADS]},
        "about": {"value": "\n\n".join(words["about"])},
    }


class Page:
    """The components by name."""

    def __init__(self):
        self.examples = views.example_pictures()
        self.texts = page_texts("en", self.examples)
        self.parts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    def add(self, name: str, kind: Callable[..., Any], **options: Any) -> Any:
        """Makes a component with its texts."""
        self.parts[name] = kind(elem_id=name.replace("_", "-"), **self.texts.get(name, {}), **options)
        return self.parts[name]

    def head(self, name: str) -> None:
        """Makes a heading."""
        self.add(name, gr.HTML, elem_classes="ag-head", padding=False)

    def in_language(self, language: str) -> list[dict[str, Any]]:
        """Updates of all components with texts, in the order of [`Page.worded`]."""
        texts = page_texts(language, self.examples)
        return [gr.update(**texts[name]) for name in self.worded()]

    def worded(self) -> list[str]:
        """Names of the components with texts."""
        return [name for name in self.texts if name in self.parts]


def build_layout(with_shift: bool) -> Page:
    """Makes all components, inside an open `gr.Blocks`; the tab of a shift only where there is one."""
    page = Page()
    page.parts["session"] = gr.State(None, time_to_live=work.SESSION_SECONDS, delete_callback=_forget)
    with gr.Row(elem_id="top"):
        page.add("brand", gr.HTML, padding=False)
        with gr.Row(elem_id="tools"):
            languages = {"choices": [("English", "en"), ("中文", "zh")], "label": "Language / 语言"}
            page.add("language", gr.Radio, value="en", show_label=False, container=False, **languages)
            page.add("theme", gr.Button, size="sm")
    with gr.Tabs():
        with page.add("tab_inspect", gr.Tab, id="inspect"), gr.Row():
            with gr.Column(scale=5, min_width=320):
                _inputs(page)
            with gr.Column(scale=7, min_width=320):
                _results(page)
        with page.add("tab_batch", gr.Tab, id="batch"):
            _batch(page)
        if with_shift:
            with page.add("tab_shift", gr.Tab, id="shift"):
                _shift(page)
        with page.add("tab_about", gr.Tab, id="about"):
            page.add("about", gr.Markdown)
            gr.Code(_CLIENT, language="python", show_label=False, interactive=False)
    return page


def _forget(session: Session | None) -> None:
    if session is not None:
        session.forget()


def _inputs(page: Page) -> None:
    page.head("head_picture")
    # No words: an update would replace the component by one that opens files itself (`build_app`).
    image = {"sources": SOURCES, "show_label": False}
    page.add("picture", gr.Image, type="filepath", image_mode=None, height=290, buttons=["fullscreen"], **image)
    page.add("part", gr.Dropdown, value="", choices=[("", "")], visible=False)
    page.add("part_note", gr.HTML, visible=False, padding=False)
    page.head("head_references")
    gallery = {"columns": 4, "height": 170, "object_fit": "cover", "file_types": ["image"], "interactive": True}
    page.add("references", gr.Gallery, type="filepath", **gallery, **image)
    with page.add("region_fold", gr.Accordion, open=False):
        page.add("region_hint", gr.HTML)
        page.add("region_editor", drawing.add_editor)
        with gr.Row():
            page.add("region_find", gr.Button, size="sm")
            page.add("region_clear", gr.Button, size="sm")
        page.add("region_note", gr.HTML, padding=False)
    page.head("head_part")
    with page.add("part_fields", gr.Group):
        page.add("category", gr.Dropdown, value="object", allow_custom_value=True)
        page.add("description", gr.Textbox, max_length=work.MAX_DESCRIPTION)
    with gr.Row(elem_classes="ag-run-row"):
        page.add("inspect", gr.Button, variant="primary", size="lg")
        page.add("stop", gr.Button, size="lg", interactive=False)
    with page.add("scale", gr.Accordion, open=False):
        page.add("scale_hint", gr.HTML)
        with gr.Row():
            page.add("known_length", gr.Number, value=10, minimum=0, min_width=130)
            page.add("mm_per_pixel", gr.Number, value=0, minimum=0, min_width=130)
        page.add("scale_picture", gr.Image, type="pil", interactive=False, buttons=["fullscreen"])
        page.add("scale_none", gr.HTML)
    with page.add("settings", gr.Accordion, open=False):
        page.add("localization", gr.Radio, value="auto")
        page.add("use_language", gr.Checkbox, value=True)
        page.add("rotations", gr.Checkbox, value=False)
        page.add("align", gr.Checkbox, value=False)
        page.add("presence", gr.Checkbox, value=False)
        page.add("tile", gr.Number, value=0, minimum=0, maximum=4096, precision=0)
        page.add("question", gr.Textbox, max_length=work.MAX_QUESTION)
    if page.examples:
        page.head("head_examples")
        quiet = {"allow_preview": False, "interactive": False, "show_label": False, "buttons": []}
        page.add("examples", gr.Gallery, columns=3, object_fit="cover", **quiet)


def _results(page: Page) -> None:
    page.add("verdict", gr.HTML, value=views.welcome_card("en"), padding=False)
    with page.add("views", gr.Column, visible=False):
        with gr.Tabs():
            with page.add("tab_regions", gr.Tab):
                page.add("overlay", gr.AnnotatedImage, height=400)
            with page.add("tab_compare", gr.Tab):
                page.add("slider", gr.ImageSlider, height=440, max_height=440)
        with page.add("region_box", gr.Column, visible=False):
            page.add("region_card", gr.HTML)
            with gr.Row():
                for name in ("region_crop", "nearest_good"):
                    page.add(name, gr.Image, interactive=False, height=210, min_width=140, buttons=[])
        page.add("regions", gr.HTML, padding=False)
        with page.add("evidence_fold", gr.Accordion, open=False):
            page.add("evidence", gr.HTML, padding=False)
    page.head("chat")
    chat = {"show_label": False, "render_markdown": False, "feedback_options": None, "buttons": ["copy_all"]}
    page.add("chatbot", gr.Chatbot, height=330, **chat)  # texts arrive escaped (`shown_messages`)
    with gr.Row(elem_id="suggestions"):
        for name in ("ask_where", "ask_what", "ask_highlight"):
            page.add(name, gr.Button, size="sm")
    with gr.Row(elem_id="ask-row"):
        box = {"show_label": False, "container": False, "max_length": work.MAX_QUESTION, "scale": 8}
        page.add("message", gr.Textbox, **box)
        page.add("send", gr.Button, variant="primary")
        page.add("stop_chat", gr.Button)


def _batch(page: Page) -> None:
    page.add("batch_intro", gr.HTML)
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            many = {"file_count": "multiple"}
            page.add("batch_files", gr.File, file_types=["image"], height=240, **many)
            with gr.Row(elem_classes="ag-run-row"):
                page.add("batch_run", gr.Button, variant="primary")
                page.add("batch_stop", gr.Button)
            page.add("batch_empty", gr.HTML)
            page.add("downloads", gr.File, visible=False, **many)
        with gr.Column(scale=8, min_width=320):
            table = {"datatype": "str", "type": "array", "interactive": False, "wrap": True, "max_height": 420}
            widths = ["22%", "14%", "11%", "18%", "35%"]
            page.add("batch_table", gr.Dataframe, column_widths=widths, buttons=["copy"], **table)
            buttons = ["download", "fullscreen"]
            page.add("batch_picture", gr.Image, interactive=False, visible=False, height=420, buttons=buttons)


def _shift(page: Page) -> None:
    with gr.Row():
        page.add("shift_since", gr.Textbox, max_length=30, max_lines=1, min_width=160)
        page.add("shift_verdict", gr.Dropdown, value="", min_width=160)
    page.add("shift_refresh", gr.Button, size="sm")
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            page.add("shift_counts", gr.HTML, padding=False)
            table = {"datatype": "str", "type": "array", "interactive": False, "wrap": True, "max_height": 520}
            widths = ["8%", "18%", "22%", "20%", "13%", "19%"]
            page.add("shift_table", gr.Dataframe, column_widths=widths, buttons=[], **table)
        with gr.Column(scale=5, min_width=320):
            page.add("shift_picture", gr.Image, interactive=False, height=380, buttons=["fullscreen"])
            with gr.Row():
                page.add("say_normal", gr.Button)
                page.add("say_anomalous", gr.Button)
                page.add("say_undo", gr.Button)
            page.add("shift_note", gr.HTML, padding=False)
            page.add("shift_card", gr.HTML, padding=False)
    with page.add("shift_drift", gr.Accordion, open=False):
        page.add("shift_charts", gr.HTML, padding=False)


def category_choices(language: str) -> list[tuple[str, str]]:
    """Suggested categories: what is shown, and what is used."""
    names = [(one.en_name if language == "en" else one.zh_name, one.en_name) for one in DESCRIPTIONS.values()]
    general = ("object" if language == "en" else "物体", "object")
    return [general, *sorted({pair for pair in names if pair[1] != "object" and len(pair[1]) <= work.MAX_CATEGORY})]


# What they do


def visit(session: Session | None, engine: Engine, request: gr.Request | None) -> Session:
    """The visitor's session, a new one on the first request, with the address that fairness goes by.

    Behind a proxy the address is the last one that was forwarded: earlier ones are the visitor's own words.
    """
    session = session or Session(engine)
    if request is not None:
        forwarded = request.headers.get("x-forwarded-for", "").split(",")[-1].strip()
        session.visitor = forwarded or getattr(request.client, "host", "") or ""
    return session


def gallery_files(gallery: Sequence | None) -> list[str]:
    """Paths of a gallery's pictures, or of a list of files."""
    return [item[0] if isinstance(item, (tuple, list)) else str(item) for item in gallery or ()]


def _asked(inputs: Sequence[Any]) -> tuple[list[str], Any, Settings]:
    """Good pictures, what was painted on the first, and settings, from the values of `GOOD` and `SETTINGS`."""
    references, painted, *fields = inputs
    return gallery_files(references), painted, Settings(**dict(zip(SETTINGS, fields, strict=True)))


def shown_messages(session: Session, remark: str = "") -> list[dict[str, Any]]:
    """The messages, and a remark of the page's own; the page takes texts for HTML, so all of them are escaped."""
    messages = [*session.messages, *([{"role": "assistant", "content": remark}] if remark else [])]
    return [
        one | {"content": escape(one["content"], quote=False)} if isinstance(one["content"], str) else one
        for one in messages
    ]


def _connect_language(page: Page, blocks: gr.Blocks) -> None:
    def say(language: str, session: Session | None) -> list[Any]:
        result = None if session is None else session.result
        if result is None:  # what was refused, stopped or is still being inspected keeps its card
            card = gr.skip() if session is not None and session.begun else views.welcome_card(language)
            return [*page.in_language(language), card, gr.skip(), gr.skip()]
        tables = [views.regions_table(result, language), views.evidence_table(result, language)]
        return [*page.in_language(language), views.verdict_card(result, language), *tables]

    def greet(language: str) -> Any:
        return language if language == "zh" else gr.skip()

    worded = [page[name] for name in (*page.worded(), "verdict", "regions", "evidence")]
    page["theme"].click(None, js=_TOGGLE_THEME, api_visibility="private")
    page["language"].change(say, [page["language"], page["session"]], worded, **QUIET)
    page["language"].change(None, page["language"], js=_TELL_READERS, api_visibility="private")
    gr.on([blocks.load], greet, page["language"], page["language"], js=_BROWSER_LANGUAGE, queue=False, **QUIET)


def _connect_parts(page: Page, blocks: gr.Blocks, engine: Engine) -> None:
    """A stored part may be chosen instead of good pictures; what it knows itself is not asked for then."""
    instead = ("head_references", "references", "region_fold", "head_part", "part_fields")

    def list_parts(language: str) -> Any:
        names = engine.parts.names()
        words = words_of(language)
        choices = [(words["part_none"], ""), *((name, name) for name in names)]
        return gr.update(label=words["part"], choices=choices, visible=bool(names))

    def choose_part(name: str, language: str) -> list[Any]:
        shown = [gr.update(visible=not name)] * len(instead)
        if not name:
            return [gr.update(value="", visible=False), *shown]
        try:
            note = views.part_note(engine.part(name), language)
        except (ValueError, OSError) as error:
            note = views.note(reason_in_words(error, language))
        return [gr.update(value=note, visible=True), *shown]

    gr.on([blocks.load, page["language"].change], list_parts, page["language"], page["part"], **QUIET)
    changes = [page["part"].change, page["language"].change]
    outputs = [page["part_note"], *(page[name] for name in instead)]
    gr.on(changes, choose_part, [page["part"], page["language"]], outputs, **QUIET)


def _connect_inspection(page: Page, engine: Engine) -> None:
    names = ("verdict", "views", "overlay", "slider", "regions", "evidence", "region_box", "chatbot")
    shown, buttons = [page["session"], *(page[name] for name in names)], [page["inspect"], page["stop"]]

    def begin(request: gr.Request, session: Session | None, language: str) -> list[Any]:
        session = visit(session, engine, request)  # known to what is asked while the first inspection runs
        session.begun = True
        return [session, views.busy_card(language), gr.update(interactive=False), gr.update(interactive=True)]

    def end() -> list[Any]:
        return [gr.update(interactive=True), gr.update(interactive=False)]

    def run(request: gr.Request, session: Session | None, picture: str | None, *inputs: Any) -> Iterator[list[Any]]:
        (good, painted, settings), session = _asked(inputs), visit(session, engine, request)
        try:
            settings = work.with_region(settings, session, good, painted)
            for _ in work.inspect_picture(engine, session, picture, good, settings):
                yield [gr.skip()] * len(shown)  # shows whether the visitor is still there
            yield [session, *_shown(session, settings.language)]
        except Exception as error:
            card = views.error_card(reason_in_words(error, settings.language), settings.language)
            yield [session, card, gr.update(visible=False), None, None, "", "", gr.update(visible=False), []]

    def load_example(event: gr.SelectData) -> list[Any]:
        picture, good, category, _ = page.examples[event.index]
        return [picture, good, None, "", category, ""]

    def failed(language: str) -> str:
        return views.error_card(words_of(language)["not_shown"], language)

    def stopped(language: str) -> list[Any]:
        card = views.error_card(words_of(language)["stopped_reason"], language, "stopped")
        return [card, gr.update(visible=False), gr.update(visible=False), [], *end()]

    inputs = [page[name] for name in ("session", "picture", *GOOD, *SETTINGS)]
    starts, runs = [page["inspect"].click], []
    if page.examples:
        filled = [page[name] for name in ("picture", *GOOD, "part", "category", "description")]
        starts.append(page["examples"].select(load_example, None, filled, **QUIET).then)
    for start in starts:
        begun = start(
            begin, [page["session"], page["language"]], [page["session"], page["verdict"], *buttons],
            js=_SHOW_VERDICT, queue=False, **QUIET,
        )  # fmt: skip
        runs.append(begun.then(run, inputs, shown, **MODEL_QUEUE, **QUIET))
        runs[-1].failure(failed, page["language"], page["verdict"], queue=False, **QUIET)
        runs[-1].then(end, None, buttons, queue=False, **QUIET)
    emptied = [page[name] for name in ("verdict", "views", "region_box", "chatbot")]
    page["stop"].click(stopped, page["language"], [*emptied, *buttons], cancels=runs, queue=False, **QUIET)
    region = [page[name] for name in ("region_box", "region_card", "region_crop", "nearest_good")]
    page["overlay"].select(_region_shown, [page["session"], page["language"]], region, **QUIET)


def _shown(session: Session, language: str) -> list[Any]:
    """Values of everything that shows a result; of one without a verdict there is no map worth showing."""
    result, hidden = session.result, gr.update(visible=False)
    card = views.verdict_card(result, language)
    if result.verdict == "unknown":
        return [card, hidden, None, None, "", "", hidden, shown_messages(session)]
    factor = session.shown_size[0] / session.size[0]
    masks, colours = views.annotations(result.regions, session.shown_size, factor, language)
    overlay = gr.update(value=(session.files["picture"], masks), color_map=colours)
    slider = (session.files["picture"], session.files["map"])
    tables = [views.regions_table(result, language), views.evidence_table(result, language)]
    return [card, gr.update(visible=True), overlay, slider, *tables, hidden, shown_messages(session)]


def _region_shown(session: Session | None, language: str, event: gr.SelectData) -> list[Any]:
    """The clicked region, enlarged, beside the most similar good place."""
    index = event.index if isinstance(event.index, int) else -1
    if session is None or session.result is None or not 0 <= index < len(session.result.regions):
        return [gr.update(visible=False), "", None, None]
    region = session.result.regions[index]
    crop = good = None
    opened = partial(work.picture_to_show, language=language, bits=session.inspector.bits)
    try:
        crop = views.region_crop(opened(session.picture), region)
        if region.nearest_good and 0 <= (number := region.nearest_good["reference"]) < len(session.references):
            good = views.nearest_good_crop(region, session.size, opened(session.references[number]))
    except RefusedError:
        pass  # the upload is no longer kept; its numbers are
    card = views.region_card(region, index + 1, language)
    return [gr.update(visible=True), card, crop, gr.update(value=good, visible=good is not None)]


def _connect_scale(page: Page, engine: Engine) -> None:
    def opened(picture: str, language: str) -> tuple[Any, float]:
        return views.reduced(work.picture_to_show(picture, language), views.LONGEST_SIDE_SCALE)

    def scale_of(points: list[tuple[int, int]], length: float | None, factor: float, language: str) -> list[Any]:
        scale = views.millimetres_per_pixel(points, length, factor)
        return [round(scale, 6) if scale else gr.skip(), views.scale_note(points, length, scale, language)]

    def show(session: Session | None, picture: str | None, language: str) -> list[Any]:
        session = visit(session, engine, None)
        session.points = []
        try:
            return [session, opened(picture, language)[0] if picture else None]
        except RefusedError:
            return [session, None]  # the reason comes when it is inspected

    def click(
        session: Session | None, picture: str | None, length: float | None, language: str, event: gr.SelectData
    ) -> list[Any]:
        session = visit(session, engine, None)
        if not picture:
            return [session, None, gr.skip(), gr.skip()]
        try:
            shown, factor = opened(picture, language)
        except RefusedError as error:
            return [session, None, gr.skip(), views.note(str(error))]
        point = (round(event.index[0]), round(event.index[1]))
        session.points = [point] if len(session.points) >= 2 else [*session.points, point]
        return [session, views.draw_points(shown, session.points), *scale_of(session.points, length, factor, language)]

    def length_changed(session: Session | None, picture: str | None, length: float | None, language: str) -> list[Any]:
        if session is None or len(session.points) < 2 or not picture:
            return [gr.skip(), gr.skip()]
        try:
            _, factor = opened(picture, language)
        except RefusedError as error:
            return [gr.skip(), views.note(str(error))]
        return scale_of(session.points, length, factor, language)

    common, found = [page["session"], page["picture"]], [page["mm_per_pixel"], page["scale_none"]]
    measured = [*common, page["known_length"], page["language"]]
    page["picture"].change(show, [*common, page["language"]], [page["session"], page["scale_picture"]], **QUIET)
    page["scale_picture"].select(click, measured, [page["session"], page["scale_picture"], *found], **QUIET)
    page["known_length"].change(length_changed, measured, found, **QUIET)


def _connect_region(page: Page, engine: Engine) -> None:
    def open_editor(session: Session | None, references: list | None, language: str) -> list[Any]:
        session = visit(session, engine, None)
        session.paints = True
        if not references:
            return [session, None, views.note(words_of(language)["region_needs_reference"])]
        return follow_references(session, references, language)

    def follow_references(session: Session | None, references: list | None, language: str) -> list[Any]:
        if session is None or not session.paints:
            return [session, gr.skip(), gr.skip()]
        try:
            is_new, picture = work.new_canvas(session, gallery_files(references), language)
        except RefusedError as error:
            return [session, None, views.note(str(error))]
        return [session, _on_canvas(picture), ""] if is_new else [session, gr.skip(), gr.skip()]

    def clear_paint(session: Session | None, references: list | None, language: str) -> list[Any]:
        session = visit(session, engine, None)
        session.drawn_on = None
        return open_editor(session, references, language)

    def find_part(
        request: gr.Request, session: Session | None, references: list | None, language: str, align: bool
    ) -> Iterator[list[Any]]:
        # Where pictures are aligned, the part lies elsewhere in the others.
        session, good = visit(session, engine, request), gallery_files(references)[: 1 if align else None]
        try:
            yield [session, gr.skip(), views.note(words_of(language)["region_searching"])]
            for found in work.find_region(engine, session, good, language):
                if found is None:
                    yield [gr.skip()] * len(shown)
                    continue
                session.drawn_on = None
                _, picture = work.new_canvas(session, good, language)
                note = words_of(language)["region_found"].format(percent=f"{100 * found.mean():.0f}")
                yield [session, _on_canvas(picture, drawing.layer_of(found, picture.size)), views.note(note)]
        except Exception as error:
            yield [session, gr.skip(), views.note(reason_in_words(error, language))]

    inputs = [page["session"], page["references"], page["language"]]
    shown = [page["session"], page["region_editor"], page["region_note"]]
    page["region_fold"].expand(open_editor, inputs, shown, **QUIET)
    page["references"].change(follow_references, inputs, shown, **QUIET)
    page["region_clear"].click(clear_paint, inputs, shown, **QUIET)
    page["region_find"].click(find_part, [*inputs, page["align"]], shown, **MODEL_QUEUE, **QUIET)


def _on_canvas(picture: Image.Image | None, layer: Image.Image | None = None) -> dict[str, Any] | None:
    """The value of the editor: a picture to paint on, and paint."""
    if picture is None:
        return None
    return {"background": picture, "layers": [] if layer is None else [layer], "composite": None}


def _connect_chat(page: Page, engine: Engine) -> None:
    def talk(session: Session | None, message: str, language: str, request: gr.Request) -> Iterator[list[Any]]:
        session = visit(session, engine, request)
        try:
            for _ in work.reply(engine, session, message, language):
                yield [session, shown_messages(session), ""]
        except Exception as error:
            yield [session, shown_messages(session, reason_in_words(error, language)), gr.skip()]

    def suggestion(key: str) -> Callable[..., Iterator[list[Any]]]:
        def ask(session: Session | None, language: str, request: gr.Request) -> Iterator[list[Any]]:
            words = words_of(language)
            yield from talk(session, words.get(f"{key}_full", words[key]), language, request)

        return ask

    def clear(session: Session | None) -> Session | None:
        if session is not None and session.result is not None:
            session.messages, session.result.conversation = [], []
        return session

    shown, options = [page["session"], page["chatbot"], page["message"]], QUIET | MODEL_QUEUE
    inputs = [page["session"], page["message"], page["language"]]
    events = [start(talk, inputs, shown, **options) for start in (page["message"].submit, page["send"].click)]
    events += [
        page[key].click(suggestion(key), [page["session"], page["language"]], shown, **options)
        for key in ("ask_where", "ask_what", "ask_highlight")
    ]
    page["stop_chat"].click(None, cancels=events, api_visibility="private")
    page["chatbot"].clear(clear, page["session"], page["session"], queue=False, **QUIET)


def _connect_batch(page: Page, engine: Engine) -> None:
    shown = [page[name] for name in ("session", "batch_table", "batch_empty", "downloads", "batch_picture")]
    hidden = gr.update(visible=False)

    def run(request: gr.Request, session: Session | None, files: list | None, *inputs: Any) -> Iterator[list[Any]]:
        (good, painted, settings), session, files = _asked(inputs), visit(session, engine, request), files or []
        language, words = settings.language, words_of(settings.language)
        yield [session, [], views.note(words["batch_state"].format(done=0, total=len(files))), hidden, hidden]
        try:
            settings = work.with_region(settings, session, good, painted)
            for results in work.inspect_batch(engine, session, files, good, settings):
                if results is None:
                    yield [gr.skip()] * len(shown)
                    continue
                total = len(session.batch.names)  # pages of files are pictures of their own
                state = views.note(words["batch_state"].format(done=len(results), total=total))
                yield [session, work.batch_rows(results, language), state, gr.skip(), gr.skip()]
            downloads = gr.update(value=work.write_downloads(session.batch.report), visible=True)
            summary = views.note(views.batch_summary(session.batch.report.results, language))
            yield [session, gr.skip(), summary, downloads, gr.skip()]
        except Exception as error:
            yield [session, [], views.error_card(reason_in_words(error, language), language), hidden, hidden]

    def stopped(session: Session | None, language: str) -> list[Any]:
        if session is None or session.batch is None or not session.batch.report.results:
            return [gr.skip(), gr.skip()]
        report = session.batch.report
        text = words_of(language)["batch_stopped"].format(done=len(report.results), total=len(session.batch.names))
        return [views.note(text), gr.update(value=work.write_downloads(report), visible=True)]

    def row_shown(session: Session | None, event: gr.SelectData) -> Any:
        path = None if session is None or session.batch is None else session.batch.overlay(event.index[0])
        return gr.update(value=path, visible=path is not None)

    inputs = [page[name] for name in ("session", "batch_files", *GOOD, *SETTINGS)]
    running = page["batch_run"].click(run, inputs, shown, **MODEL_QUEUE, **QUIET)
    stop_shows = [page["batch_empty"], page["downloads"]]
    page["batch_stop"].click(
        stopped, [page["session"], page["language"]], stop_shows, cancels=[running], api_visibility="private"
    )
    page["batch_table"].select(row_shown, page["session"], page["batch_picture"], **EACH_IN_ORDER)


def _connect_shift(page: Page, engine: Engine) -> None:
    def show_shift(session: Session | None, since: str, verdict: str, language: str) -> list[Any]:
        session = visit(session, engine, None)
        try:
            counts, rows = shift.read_shift(engine.results, since, verdict, language)
        except (ValueError, OSError) as error:
            return [session, views.note(reason_in_words(error, language)), []]
        session.rows = {number: (number, said, result) for number, said, result in rows}
        return [session, counts, shift.listed(rows, language)]

    def show_row(session: Session | None, language: str, event: gr.SelectData) -> list[Any]:
        session = visit(session, engine, None)
        session.row = int(event.row_value[0]) if event.row_value and event.row_value[0] else None
        if session.row not in session.rows:
            return [session, None, "", ""]
        result = session.rows[session.row][2]
        which = views.note(f"{session.row} · {work.shown_name(result.image or '-')}")  # the buttons are about this one
        if result.error:
            return [session, None, which + views.error_card(result.error, language, "verdict_error"), ""]
        picture, note = None, words_of(language)["row_gone"]
        try:
            picture = shift.row_picture(engine.results, result)
        except (ValueError, OSError) as error:
            note = reason_in_words(error, language)
        card = which + views.verdict_card(result, language)
        return [session, picture, card, "" if picture else views.note(note)]

    def say_verdict(said: str, request: gr.Request, session: Session | None, *shown_by: str) -> Iterator[list[Any]]:
        session, language = visit(session, engine, request), shown_by[-1]
        try:
            for line in shift.say_of(engine, session, session.rows.get(session.row), said, language):
                if line is None:
                    yield [gr.skip()] * 4
                else:
                    yield [*show_shift(session, *shown_by), views.note(line)]
        except Exception as error:
            yield [session, gr.skip(), gr.skip(), views.note(reason_in_words(error, language))]

    def say_normal(request: gr.Request, session: Session | None, *shown_by: str) -> Iterator[list[Any]]:
        yield from say_verdict("normal", request, session, *shown_by)

    def say_anomalous(request: gr.Request, session: Session | None, *shown_by: str) -> Iterator[list[Any]]:
        yield from say_verdict("anomalous", request, session, *shown_by)

    def say_undone(session: Session | None, since: str, verdict: str, language: str) -> list[Any]:
        try:
            line = shift.take_back(engine, language)
        except (ValueError, OSError) as error:
            line = reason_in_words(error, language)
        return [*show_shift(session, since, verdict, language), views.note(line)]

    def show_drift(language: str) -> str:
        try:
            return shift.drift_of_shift(engine.results, language)
        except (ValueError, OSError) as error:
            return views.note(reason_in_words(error, language))

    inputs = [page[name] for name in ("session", "shift_since", "shift_verdict", "language")]
    shown = [page[name] for name in ("session", "shift_counts", "shift_table")]
    starts = [page["tab_shift"].select, page["shift_refresh"].click, page["shift_since"].submit]
    gr.on([*starts, page["shift_verdict"].input], show_shift, inputs, shown, **QUIET)
    row = [page[name] for name in ("session", "shift_picture", "shift_card", "shift_note")]
    page["shift_table"].select(show_row, [page["session"], page["language"]], row, **EACH_IN_ORDER)
    said = [*shown, page["shift_note"]]
    page["say_normal"].click(say_normal, inputs, said, **MODEL_QUEUE, **QUIET)
    page["say_anomalous"].click(say_anomalous, inputs, said, **MODEL_QUEUE, **QUIET)
    page["say_undo"].click(say_undone, inputs, said, **QUIET)
    page["shift_drift"].expand(show_drift, page["language"], page["shift_charts"], **QUIET)


# Endpoints


def _inspect_endpoint(engine: Engine) -> Callable:
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
        align: bool = False,
        presence: bool = False,
        request: gr.Request = None,
    ) -> Iterator[tuple[Session, dict, str | None]]:
        """Inspects a photograph of a part, compared with photographs of good ones.

        Args:
            image: The photograph to inspect.
            references: Photographs of good parts, taken like the one to inspect. Without any there is no verdict.
            category: What the photograph shows, such as bolt.
            description: How a good one looks, one sentence; may be empty.
            language: en or zh.
            localization: auto, reference, text or mean.
            rotations: Whether rotated copies of the references are learned, for parts that lie in any direction.
            tile: Side in pixels of the tiles of large pictures, at least 32; 0 for none.
            mm_per_pixel: Scale for sizes in millimetres; 0 when it is unknown.
            question: First question; empty for whether there is any anomaly.
            align: Whether the photograph is first brought into the pose of the references, for rigid parts that lie in
                any direction; not together with rotations.
            presence: Whether what all references show must be there; not together with rotations or tile.

        Returns:
            The result (verdict, pred_score, log_odds, answer, regions, evidence, ...) and the overlay.
        """
        session, language = visit(session, engine, request), language or "en"
        try:
            _check("language", language, ("en", "zh"), "en")
            _check("localization", localization, LOCALIZATIONS, language)
            for name, chosen in (("rotations", rotations), ("align", align), ("presence", presence)):
                _check(name, chosen or False, (True, False), language)
            settings = Settings(
                category, description, question, language, localization or "auto",
                rotations=rotations or False, align=align or False, presence=presence or False, tile=int(tile or 0),
                mm_per_pixel=mm_per_pixel,
            )  # fmt: skip
            for _ in work.inspect_picture(engine, session, image, gallery_files(references), settings):
                yield session, gr.skip(), gr.skip()
            overlay = None if session.result.verdict == "unknown" else session.files["overlay"]
            yield session, session.result.to_dict(), overlay
        except Exception as error:
            raise _shown_error(error, language) from None

    return inspect


def _chat_endpoint(engine: Engine) -> Callable:
    def chat(
        session: Session | None,
        message: str,
        image: str | None = None,
        references: list | None = None,
        category: str = "",
        language: str = "en",
        request: gr.Request = None,
    ) -> Iterator[tuple[Session, str, str | None]]:
        """Asks about a photograph: the one given here, or else the one inspected last by this client.

        Args:
            message: The question, in English or Chinese, such as: Where is the anomaly? Highlight the anomalies.
            image: A photograph to inspect first; empty to go on talking about the last one.
            references: Photographs of good parts; only with an image.
            category: What the photograph shows; only with an image.
            language: en or zh: of what the page itself says.

        Returns:
            The answer as it grows, and the overlay where the question asks to see the places.
        """
        session, language = visit(session, engine, request), language or "en"
        try:
            _check("language", language, ("en", "zh"), "en")
            if image:
                settings = Settings(category=category, language=language)
                for _ in work.inspect_picture(engine, session, image, gallery_files(references), settings):
                    yield session, "", None
            for answer in work.reply(engine, session, message, language):
                overlay = session.messages[-1]["content"] if answer else None
                yield session, answer, overlay["path"] if isinstance(overlay, dict) else None
        except Exception as error:
            raise _shown_error(error, language) from None

    return chat


def _add_endpoints(state: gr.State, engine: Engine) -> None:
    """The two named endpoints for programs, `/inspect` and `/chat` (docs/space.md); their components are not shown."""
    with gr.Group(visible=False):
        image, references = gr.File(label="image"), gr.File(label="references", file_count="multiple")
        texts = {name: gr.Textbox("", label=name) for name in ("category", "description", "question")}
        language, localization = gr.Textbox("en", label="language"), gr.Textbox("auto", label="localization")
        rotations, align, presence = (gr.Checkbox(label=name) for name in ("rotations", "align", "presence"))
        tile = gr.Number(0, label="tile")
        mm_per_pixel, message = gr.Number(0, label="mm_per_pixel"), gr.Textbox(label="message")
        result, overlay, answer = gr.JSON(label="result"), gr.File(label="overlay"), gr.Textbox(label="answer")
        inspected = [state, image, references, texts["category"], texts["description"], language, localization]
        inspected += [rotations, tile, mm_per_pixel, texts["question"], align, presence]
        gr.Button().click(
            _inspect_endpoint(engine), inspected, [state, result, overlay], api_name="inspect", **MODEL_QUEUE
        )
        asked = [state, message, image, references, texts["category"], language]
        gr.Button().click(_chat_endpoint(engine), asked, [state, answer, overlay], api_name="chat", **MODEL_QUEUE)


def _check(name: str, chosen: Any, choices: tuple[Any, ...], language: str) -> None:
    if chosen not in choices:
        named = ", ".join(map(str, choices))
        raise RefusedError(words_of(language)["bad_choice"].format(name=name, choices=named))


def _shown_error(error: Exception, language: str) -> gr.Error:
    # Gradio shows messages of errors as HTML; file names in them must not act as markup.
    language = language if language in ("en", "zh") else "en"
    return gr.Error(escape(reason_in_words(error, language), quote=False), print_exception=False)


def main() -> None:
    """Serves the model that the environment variable `ANOMALYGPT_MODEL` names, or the embedded one."""
    launch_app(os.environ.get("ANOMALYGPT_MODEL") or None, mcp_server=bool(os.environ.get("ANOMALYGPT_MCP")))


if __name__ == "__main__":
    main()
