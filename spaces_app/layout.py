"""The components of the page and their words; what they do is in `callbacks.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from modeling_anomalygpt.prompts import DESCRIPTIONS

from .batch import batch_heads
from .cards import welcome_card
from .example_pictures import ExamplePicture, example_pictures
from .limits import MAX_CATEGORY, MAX_DESCRIPTION, MAX_QUESTION
from .session import session_state
from .words import words_of

SOURCES = ["upload", "webcam", "clipboard"]
LOCALIZATIONS = ("auto", "reference", "text", "mean")


@dataclass
class Page:
    r"""
    The components by name, and how each of them is said in another language.

    Args:
        parts (`dict[str, gr.Component]`):
            Components by name.
        words (`list[tuple[str, Callable]]`):
            Name of a component, and what of it changes with the words.
        examples (`list[ExamplePicture]`):
            In the order in which they are shown.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    words: list[tuple[str, Callable[[dict[str, str], str], dict[str, Any]]]] = field(default_factory=list)
    examples: list[ExamplePicture] = field(default_factory=example_pictures)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    def add(self, name: str, kind: type, say: Callable | None = None, **options: Any) -> Any:
        """Makes a component; `say(words, language)` gives its options that are words."""
        said = {} if say is None else say(words_of("en"), "en")
        self.parts[name] = kind(**(options | said))
        if say is not None:
            self.words.append((name, say))
        return self.parts[name]

    def head(self, title: str, hint: str | None = None) -> None:
        """A heading with a line below."""

        def say(words: dict[str, str], language: str) -> dict[str, Any]:
            line = f"<p>{words[hint]}</p>" if hint else ""
            return {"value": f"<h2>{words[title]}</h2>{line}"}

        self.add(f"head_{title}", gr.HTML, say, elem_classes="ag-head", padding=False)

    def in_language(self, language: str) -> list[dict[str, Any]]:
        """Updates of all components with words, in the order of [`Page.worded`]."""
        words = words_of(language)
        return [gr.update(**say(words, language)) for _, say in self.words]

    @property
    def worded(self) -> list[Any]:
        """The components with words."""
        return [self.parts[name] for name, _ in self.words]


def label(key: str, **placeholders: str) -> Callable[[dict[str, str], str], dict[str, Any]]:
    """Says a component's label and other texts by their keys."""
    return lambda words, language: {"label": words[key]} | {name: words[of] for name, of in placeholders.items()}


def value(key: str) -> Callable[[dict[str, str], str], dict[str, Any]]:
    """Says a button's text."""
    return lambda words, language: {"value": words[key]}


def build_layout() -> Page:
    """Makes all components, inside an open `gr.Blocks`."""
    page = Page()
    page.parts["session"] = session_state()
    _top(page)
    with gr.Tabs():
        with page.add("tab_inspect", gr.Tab, label("tab_inspect"), id="inspect"), gr.Row():
            with gr.Column(scale=5, min_width=320):
                _inputs(page)
            with gr.Column(scale=7, min_width=320):
                _results(page)
        with page.add("tab_batch", gr.Tab, label("tab_batch"), id="batch"):
            _batch(page)
        with page.add("tab_about", gr.Tab, label("tab_about"), id="about"):
            _about(page)
    return page


def _top(page: Page) -> None:
    with gr.Row(elem_id="top"):
        page.add(
            "brand",
            gr.HTML,
            lambda words, _: {"value": f"<h1>{words['title']}</h1><p>{words['tagline']}</p>"},
            elem_id="brand",
            padding=False,
        )
        with gr.Row(elem_id="tools"):
            page.add(
                "language",
                gr.Radio,
                choices=[("English", "en"), ("中文", "zh")],
                value="en",
                label="Language / 语言",
                show_label=False,
                container=False,
                elem_id="language",
            )
            page.add("theme", gr.Button, value("theme"), size="sm", elem_id="theme-button")


def _inputs(page: Page) -> None:
    page.head("head_picture")
    # Its label stays as it is: an update would replace the component by one that opens files itself (callbacks.py).
    page.add(
        "picture",
        gr.Image,
        type="filepath",
        image_mode=None,
        sources=SOURCES,
        height=290,
        show_label=False,
        buttons=["fullscreen"],
        elem_id="picture",
    )
    page.head("head_references", "hint_references")
    page.add(
        "references",
        gr.Gallery,
        type="filepath",
        interactive=True,
        sources=SOURCES,
        columns=4,
        height=170,
        object_fit="cover",
        show_label=False,
        file_types=["image"],
        elem_id="references",
    )
    page.head("head_part")
    with gr.Group():
        page.add(
            "category",
            gr.Dropdown,
            lambda words, language: {"label": words["category"], "choices": category_choices(language)},
            value="object",
            allow_custom_value=True,
            elem_id="category",
        )
        page.add(
            "description",
            gr.Textbox,
            label("description", placeholder="description_hint"),
            max_length=MAX_DESCRIPTION,
            elem_id="description",
        )
    with gr.Row(elem_id="run-row"):
        page.add("inspect", gr.Button, value("inspect"), variant="primary", size="lg", elem_id="inspect")
        page.add("stop", gr.Button, value("stop"), size="lg", interactive=False, elem_id="stop")
    _scale(page)
    _settings(page)
    if page.examples:
        page.head("examples")
        page.add(
            "examples",
            gr.Gallery,
            lambda _, language: {"value": [(one.picture, one.captions[language]) for one in page.examples]},
            columns=3,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            show_label=False,
            buttons=[],
            elem_id="examples",
        )


def _scale(page: Page) -> None:
    with page.add("scale", gr.Accordion, label("scale"), open=False, elem_id="scale"):
        page.add("scale_hint", gr.HTML, lambda words, _: {"value": f"<p class='ag-none'>{words['scale_hint']}</p>"})
        with gr.Row():
            page.add("known_length", gr.Number, label("known_length"), value=10, minimum=0, min_width=130)
            page.add("mm_per_pixel", gr.Number, label("mm_per_pixel"), value=0, minimum=0, min_width=130)
        page.add(
            "scale_picture",
            gr.Image,
            label("scale_picture"),
            type="pil",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="scale-picture",
        )
        page.add(
            "scale_state",
            gr.HTML,
            lambda words, _: {"value": f"<p class='ag-none'>{words['scale_none']}</p>"},
            elem_id="scale-state",
        )


def _settings(page: Page) -> None:
    with page.add("settings", gr.Accordion, label("settings"), open=False, elem_id="settings"):
        page.add(
            "localization",
            gr.Radio,
            lambda words, _: {
                "label": words["localization"],
                "choices": [(words[f"localization_{kind}"], kind) for kind in LOCALIZATIONS],
            },
            value="auto",
        )
        page.add("use_language", gr.Checkbox, label("use_language"), value=True)
        page.add("rotations", gr.Checkbox, label("rotations"), value=False)
        page.add("tile", gr.Number, label("tile"), value=0, minimum=0, maximum=4096, precision=0)
        page.add("question", gr.Textbox, label("question"), max_length=MAX_QUESTION)


def _results(page: Page) -> None:
    page.add("verdict", gr.HTML, value=welcome_card("en"), elem_id="verdict", padding=False)
    with gr.Column(visible=False, elem_id="views") as views:
        page.parts["views"] = views
        _views(page)
    _chat(page)


def _views(page: Page) -> None:
    with gr.Tabs():
        with page.add("tab_regions", gr.Tab, label("tab_regions")):
            page.add("overlay", gr.AnnotatedImage, label("overlay"), height=400, elem_id="overlay")
        with page.add("tab_compare", gr.Tab, label("tab_compare")):
            page.add("slider", gr.ImageSlider, label("slider"), height=440, max_height=440, elem_id="slider")
    with gr.Column(visible=False, elem_id="region") as region:
        page.parts["region"] = region
        page.add("region_card", gr.HTML, elem_id="region-card")
        with gr.Row():
            for name in ("region_crop", "nearest_good"):
                page.add(name, gr.Image, label(name), interactive=False, height=210, min_width=140, buttons=[])
    page.add("regions", gr.HTML, elem_id="regions", padding=False)
    with page.add("evidence_fold", gr.Accordion, label("evidence"), open=False):
        page.add("evidence", gr.HTML, elem_id="evidence", padding=False)


def _chat(page: Page) -> None:
    page.head("chat")
    page.add(
        "chatbot",
        gr.Chatbot,
        label("chat", placeholder="chat_empty"),
        height=330,
        show_label=False,
        render_markdown=False,  # texts arrive escaped (conversation.shown_messages)
        feedback_options=None,
        buttons=["copy_all"],
        elem_id="chatbot",
    )
    with gr.Row(elem_id="suggestions"):
        for name in ("ask_where", "ask_what", "ask_highlight"):
            page.add(name, gr.Button, value(name), size="sm")
    with gr.Row(elem_id="ask-row"):
        page.add(
            "message",
            gr.Textbox,
            label("chat", placeholder="chat_hint"),
            show_label=False,
            container=False,
            max_length=MAX_QUESTION,
            scale=8,
            elem_id="message",
        )
        page.add("send", gr.Button, value("send"), variant="primary", elem_id="send")
        page.add("stop_chat", gr.Button, value("stop"), elem_id="stop-chat")


def _batch(page: Page) -> None:
    page.add(
        "batch_intro", gr.HTML, lambda words, _: {"value": f"<p>{words['batch_intro']}</p>"}, elem_id="batch-intro"
    )
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            page.add(
                "batch_files",
                gr.File,
                label("batch_files"),
                file_count="multiple",
                file_types=["image"],
                height=240,
                elem_id="batch-files",
            )
            with gr.Row(elem_id="run-row"):
                page.add("batch_run", gr.Button, value("batch_run"), variant="primary", elem_id="batch-run")
                page.add("batch_stop", gr.Button, value("stop"), elem_id="batch-stop")
            page.add("batch_state", gr.HTML, lambda words, _: {"value": words["batch_empty"]}, elem_id="batch-state")
            page.add(
                "downloads", gr.File, label("downloads"), file_count="multiple", visible=False, elem_id="downloads"
            )
        with gr.Column(scale=8, min_width=320):
            page.add(
                "batch_table",
                gr.Dataframe,
                lambda words, language: {"label": words["batch_table"], "headers": batch_heads(language)},
                datatype="str",
                type="array",
                interactive=False,
                wrap=True,
                max_height=420,
                column_widths=["20%", "13%", "10%", "16%", "15%", "26%"],
                buttons=["copy"],
                elem_id="batch-table",
            )
            page.add(
                "batch_picture",
                gr.Image,
                label("batch_picture"),
                interactive=False,
                visible=False,
                height=420,
                buttons=["download", "fullscreen"],
                elem_id="batch-picture",
            )


def _about(page: Page) -> None:
    page.add("about", gr.Markdown, value("about"))
    gr.Code(_CLIENT, language="python", show_label=False, interactive=False)


_CLIENT = """from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # or the id of a Space
result, overlay = client.predict(
    handle_file("photo.jpg"), [handle_file("good_1.jpg"), handle_file("good_2.jpg")], "bolt", api_name="/inspect"
)
print(result["verdict"], result["answer"], overlay)
print(client.predict("Where is the anomaly?", api_name="/chat")[0])"""


def category_choices(language: str) -> list[tuple[str, str]]:
    """Suggested categories: what is shown, and what is used."""
    names = [(one.en_name if language == "en" else one.zh_name, one.en_name) for one in DESCRIPTIONS.values()]
    general = ("object" if language == "en" else "物体", "object")
    return [general, *sorted({pair for pair in names if pair[1] != "object" and len(pair[1]) <= MAX_CATEGORY})]


__all__ = ["LOCALIZATIONS", "Page", "build_layout", "category_choices"]
