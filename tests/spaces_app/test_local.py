"""What a page of one's own shows and a public one never does: stored parts."""

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_pair

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from modeling_anomalygpt import cli
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.line.parts import EMBEDDED, PartFacts, PartStore
from spaces_app import app as app_module
from spaces_app.engine import Engine, Session, Settings, inspect_batch, inspect_picture


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def files(tmp_path) -> list[str]:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (56, 84, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(4)]


@pytest.fixture
def engine(tmp_path, files) -> Engine:
    """With a part `bolt` learned from two pictures, whose left half counts, of 0.5 mm a pixel."""
    engine = Engine(AnomalyInspector(*tiny_pair()))
    engine.parts = PartStore(tmp_path / "parts")
    add_part(engine, files[1:3])
    return engine


def add_part(engine, good, model=EMBEDDED):
    inspector, roi = engine.inspector(), np.zeros((56, 84), bool)
    roi[:, :42] = True
    inspector.set_references(good, category="hexagon bolt", roi=roi)
    engine.parts.write("bolt", inspector.references, PartFacts(model, mm_per_pixel=0.5))
    return inspector


def controls(engine):
    return {one.name: one.fn for one in app_module.build_app(engine).fns.values() if one.fn is not None}


def inspect(engine, session, files, **settings):
    for _ in inspect_picture(engine, session, files[0], files[3:], Settings(**settings)):
        pass
    return session.result


def test_a_chosen_part_judges_as_it_does_elsewhere_whatever_else_was_given(engine, files):
    session = Session(engine)
    result = inspect(engine, session, files, part="bolt", category="nut", rotations=True, tile=40)
    inspector = engine.inspector()
    engine.parts.read("bolt").use(inspector)
    expected = inspector.inspect(files[0], mm_per_pixel=0.5)
    assert result.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert (result.category, result.evidence["num_references"]) == ("hexagon bolt", 2)
    assert [region.area_mm2 for region in result.regions] == [region.area_mm2 for region in expected.regions]
    assert all(region.box[0] < 42 for region in result.regions)
    *_, rows = inspect_batch(engine, session, [files[0]], files[3:], Settings(part="bolt"))
    assert rows[0].pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert "bolt" in session.batch.report.setup.values()
    assert inspect(engine, session, files, category="nut").evidence["num_references"] == 1


def test_a_new_version_of_a_part_is_used_from_then_on(engine, files):
    session = Session(engine)
    inspect(engine, session, files, part="bolt", use_language=False)
    before = session.inspector
    inspect(engine, session, files, part="bolt", use_language=False)
    assert session.inspector is before
    add_part(engine, files[1:])
    assert inspect(engine, session, files, part="bolt", use_language=False).evidence["num_references"] == 3


def test_without_a_folder_of_parts_none_can_be_named(engine, files):
    engine.parts = None
    assert inspect(engine, Session(engine), files, part="../../bolt").evidence["num_references"] == 1
    names = controls(engine)
    assert "list_parts" not in names
    assert "choose_part" not in names


def test_parts_are_listed_and_the_chosen_one_stands_instead_of_good_pictures(engine):
    names = controls(engine)
    update = names["list_parts"]("en")
    assert update["choices"] == [("None: the good pictures below", ""), ("bolt", "bolt")]
    note, *shown = names["choose_part"]("bolt", "en")
    assert "hexagon bolt: version 1, 2 good picture(s), 50 % of the picture counts." in note["value"]
    assert {update["visible"] for update in shown} == {False}
    note, *shown = names["choose_part"]("", "zh")
    assert {update["visible"] for update in (note, *shown)} == {False, True}
    engine.parts.remove("bolt")
    assert names["list_parts"]("zh")["visible"] is False
    assert "There is no part" in names["choose_part"]("bolt", "en")[0]["value"]


def test_a_part_of_another_model_is_refused_with_what_to_do(engine, files, tmp_path):
    add_part(engine, files[1:3], model="user/other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.inspector().encoder), "fingerprint", lambda self: "another")
        with pytest.raises(ValueError, match="was made with user/other .*Give --model user/other"):
            inspect(engine, Session(engine), files, part="bolt")


def test_a_public_page_shows_no_stored_part(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(app_module.Engine, "load", lambda model=None: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="`parts` must be None on a public page"):
        app_module.launch_app(parts=PartStore(tmp_path), share=True)
    monkeypatch.setenv("SPACE_ID", "user/space")
    with pytest.raises(ValueError, match="`parts` must be None on a public page"):
        app_module.launch_app(parts=PartStore(tmp_path))
    assert cli.main(["demo", "--share", "--parts-dir", str(tmp_path)]) == 2
    assert "`--parts-dir` must stay local, got it with --share" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(app_module, "launch_app", lambda *arguments, **options: asked.append((arguments, options)))
    app_module.main()
    assert asked == [((None,), {"mcp_server": False})]
