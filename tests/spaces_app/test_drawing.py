"""A region painted on the page: what arrives of it, what it is used for, and how it is found and cleared."""

import io
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

import gradio as gr

from modeling_anomalygpt.inspector import AnomalyInspector
from spaces_app import app as app_module
from spaces_app import drawing
from spaces_app.engine import (
    RefusedError,
    Settings,
    find_region,
    inspect_batch,
    inspect_picture,
    new_canvas,
    with_region,
)

SIZE = (56, 84)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def layer(inside: np.ndarray) -> bytes:
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside] = 13, 148, 136, 9
    return png(Image.fromarray(pixels))


def left_half(size=SIZE) -> np.ndarray:
    inside = np.zeros(size, bool)
    inside[:, : size[1] // 2] = True
    return inside


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A picture to inspect, two good ones, and one of another shape."""
    for number, size in enumerate((SIZE, SIZE, SIZE, (84, 56))):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(4)]


def inspect(engine, session, files, painted):
    settings = with_region(Settings(use_language=False), session, files[1:3], painted)
    for _ in inspect_picture(engine, session, files[0], files[1:3], settings):
        pass
    return session.result


# What arrives


@pytest.fixture
def editor():
    drawing._Paint._sent.clear()
    with gr.Blocks():
        return drawing.add_editor()


def sent(editor, name, content, kind="layer", index="0"):
    about = {"type": kind, "index": index, "id": name}
    editor.accept_blobs(SimpleNamespace(data=about, files=[("blob", content)]))


def value(name=None, layers=()):
    return SimpleNamespace(id=name, layers=[SimpleNamespace(path=path) for path in layers])


def test_every_pixel_with_any_paint_counts(editor, tmp_path):
    inside = np.random.default_rng(0).random((9, 7)) < 0.4
    sent(editor, "one", layer(inside))
    assert np.array_equal(editor.preprocess(value("one")), inside)
    (tmp_path / "layer.png").write_bytes(layer(inside))
    assert np.array_equal(editor.preprocess(value(layers=[str(tmp_path / "layer.png")])), inside)


def test_without_paint_there_is_no_region(editor):
    sent(editor, "one", layer(np.zeros((9, 7), bool)))
    assert editor.preprocess(value("one")) is None
    assert editor.preprocess(value()) is None
    assert editor.preprocess(None) is None


@pytest.mark.parametrize(
    "content",
    [b"no picture", bytes(drawing.MAX_BYTES + 1), png(Image.new("RGBA", (3 * drawing.SIDE, 4), "white"))],
    ids=["no picture", "too long", "too wide"],
)
def test_what_is_no_drawing_is_told_from_one_without_paint(editor, content):
    sent(editor, "one", content)
    assert editor.preprocess(value("one")) is drawing.LOST


def test_of_what_browsers_send_little_is_kept(editor):
    for kind, index in (("background", None), ("composite", None), ("layer", "1"), ("layer", "1000000000")):
        sent(editor, kind, b"x", kind, index)
    assert not drawing._Paint._sent
    for number in range(drawing.MAX_KEPT + 3):
        sent(editor, str(number), layer(left_half()))
    assert list(drawing._Paint._sent) == [str(number) for number in range(3, drawing.MAX_KEPT + 3)]
    assert editor.preprocess(value("3")) is not None
    assert editor.preprocess(value("3")) is drawing.LOST, "asked for once, it is let go"


def test_the_editor_is_gradios_and_stays_what_it_is_when_gradio_makes_it_anew(editor):
    assert editor.get_block_name() == gr.ImageEditor().get_block_name()
    assert "accept_blobs" in editor.get_config()["server_fns"]
    again = editor.__class__(**editor.constructor_args)
    assert again.preprocess(value("never sent")) is drawing.LOST
    assert not list(pathlib.Path(drawing.__file__).parent.glob("*.pyi"))


def test_a_region_becomes_paint_and_comes_back():
    inside = np.random.default_rng(1).random((30, 45)) < 0.5
    shown = drawing.layer_of(inside, (90, 60))
    assert np.array_equal(drawing.painted(png(shown)), inside.repeat(2, 0).repeat(2, 1))


# What it is used for


def test_only_what_was_painted_counts_and_is_learned_once(engine, session, files, monkeypatch):
    learned, real = [], AnomalyInspector.set_references
    monkeypatch.setattr(
        AnomalyInspector, "set_references", lambda self, *a, **k: (learned.append(1), real(self, *a, **k))[1]
    )
    assert new_canvas(session, files[1:3], "en")[0]
    for painted in (left_half((28, 42)), left_half((28, 42)), None):
        result = inspect(engine, session, files, painted)
        roi = session.inspector.references.roi
        assert roi is None if painted is None else np.array_equal(roi, left_half())
        assert painted is None or all(region.box[0] < 42 for region in result.regions)
    assert len(learned) == 2
    expected = AnomalyInspector(engine.model, engine.processor)
    expected.set_references(files[1:3], roi=left_half())
    painted = inspect(engine, session, files, left_half())
    expected = expected.inspect(files[0], use_language=False).pred_score
    assert painted.pred_score == pytest.approx(expected, abs=1e-5)
    settings = with_region(Settings(use_language=False), session, files[1:3], left_half())
    *_, rows = inspect_batch(engine, session, [files[0]], files[1:3], settings)
    assert rows[0].pred_score == pytest.approx(expected, abs=1e-5)


def test_a_drawing_counts_for_the_picture_that_it_is_on(engine, session, files):
    settings = Settings()
    assert with_region(settings, session, files[1:], left_half()).roi is None, "nothing was painted on yet"
    is_new, canvas = new_canvas(session, files[1:], "en")
    assert (is_new, canvas.size) == (True, SIZE[::-1])
    assert new_canvas(session, files[1:], "en") == (False, None)
    assert with_region(settings, session, files[1:], left_half()).roi is not None
    assert with_region(settings, session, files[2:], left_half()).roi is None
    assert new_canvas(session, [], "en") == (True, None)
    assert with_region(settings, session, files[1:], left_half()).roi is None


@pytest.mark.parametrize(
    ("painted", "changes", "message"),
    [
        (left_half(SIZE[::-1]), {}, "The paint is on another picture"),
        (left_half(), {"rotations": True}, "has no fixed place"),
        (drawing.LOST, {}, "The paint did not arrive"),
    ],
)
def test_a_drawing_that_cannot_be_used_is_refused_in_words(engine, session, files, painted, changes, message):
    new_canvas(session, files[1:3], "en")
    with pytest.raises(RefusedError, match=message):  # noqa: PT012 (either may refuse)
        settings = with_region(Settings(**changes), session, files[1:3], painted)
        list(inspect_picture(engine, session, files[0], files[1:3], settings))


def test_a_region_counts_in_the_memory_of_a_session(engine, session, files):
    new_canvas(session, files[1:3], "en")
    inspect(engine, session, files, left_half())
    bank = sum(one.numel() * one.element_size() for one in session.inspector.memory_bank.features)
    assert session.num_bytes == bank + SIZE[0] * SIZE[1]


# The controls


@pytest.fixture(scope="module")
def controls(engine):
    """What the page does on a click or a change, by the names of the functions."""
    blocks = app_module.build_app(engine)
    return {one.name: one.fn for one in blocks.fns.values() if one.fn is not None}


def test_the_editor_is_filled_when_it_is_opened_and_follows_the_first_good_picture(controls, files):
    gallery = [(path, None) for path in files[1:]]
    untouched = gr.skip()
    assert controls["follow_references"](None, gallery, "en")[1] == untouched, "who does not paint waits for nothing"
    session, canvas, note = controls["open_editor"](None, [], "en")
    assert canvas is None
    assert "Add a good picture first" in note
    session, canvas, note = controls["follow_references"](session, gallery, "en")
    assert (canvas["background"].size, canvas["layers"], note) == (SIZE[::-1], [], "")
    assert controls["follow_references"](session, gallery[:2], "en")[1] == untouched
    assert controls["clear_paint"](session, gallery, "en")[1]["layers"] == []
    assert controls["follow_references"](session, gallery[2:], "en")[1]["background"].size == SIZE
    assert controls["follow_references"](session, [], "en")[1] is None


def test_what_is_found_is_shown_on_the_picture_with_its_share(controls, files, monkeypatch):
    monkeypatch.setattr(AnomalyInspector, "find_foreground", lambda self, images, bits: left_half())
    request = gr.Request(headers={}, client=None, session_hash="x")
    request.headers = {}
    *_, (session, canvas, note) = controls["find_part"](request, None, [(files[1], None)], "en", False)
    assert np.array_equal(np.asarray(canvas["layers"][0])[..., 3] > 0, left_half())
    assert "50 % of the picture would count" in note
    assert with_region(Settings(), session, files[1:2], left_half()).roi is not None


def test_where_nothing_is_found_it_is_said_what_to_do(engine, session, tmp_path):
    Image.new("RGB", SIZE, (90, 90, 90)).save(tmp_path / "flat.png")
    for good, message in (([str(tmp_path / "flat.png")], "无法区分"), ([], "请先添加")):
        with pytest.raises(RefusedError, match=message):
            list(find_region(engine, session, good, "zh"))
