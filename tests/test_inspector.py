"""The inspector: references in, results out, in the pictures' own pixels, whatever is handed to it."""

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from modeling_anomalygpt import inspector as inspector_module
from modeling_anomalygpt.checkpoints import CheckpointError
from modeling_anomalygpt.images import PictureError
from modeling_anomalygpt.inspector import AnomalyInspector, FeedbackHistory, InspectionOptions, without_matches
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.results import read_results
from tests.tiny import tiny_pair

pytestmark = pytest.mark.usefixtures("short_answers")


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(out_indices=[1, 2])


@pytest.fixture
def inspector(pair) -> AnomalyInspector:
    return AnomalyInspector(*pair)


def picture(seed=0, size=(40, 52)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def files(tmp_path) -> list[str]:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        picture(index).save(path)
    return [str(path) for path in paths]


def test_a_reference_inspected_again_has_an_empty_map(inspector):
    inspector.set_references([picture(0), picture(1)])
    result = inspector.inspect(picture(1))
    assert result.pred_score < 1e-5
    assert inspector.inspect(picture(2)).pred_score > 1e-3
    assert result.evidence["localization"] == "few_shot"
    assert inspector.num_references == 2


def strict(inspector: AnomalyInspector, threshold: float | None = 1e-4) -> None:
    """The same references with a threshold that every other picture exceeds."""
    known = inspector.references
    inspector.references = replace(known, bank=replace(known.bank, threshold=threshold), domain_gate=None)


def test_log_odds_are_those_of_a_plain_forward_pass_and_decide_where_there_are_no_references(inspector):
    model, processor = inspector.model, inspector.processor
    prefix, yes, no = processor.yes_no_token_ids("en")
    assert prefix == []
    for seed in range(3):
        result = inspector.inspect(picture(seed), question="Is it broken?", answer=False)
        inputs = processor(images=picture(seed), text="Is it broken?", return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        expected = logits[yes].logsumexp(0) - logits[no].logsumexp(0)
        assert result.log_odds == pytest.approx(expected.item(), abs=1e-4)
        assert (result.verdict, result.answer) == ("anomalous" if result.log_odds > 0 else "normal", "")


def test_without_the_language_model_the_map_decides(inspector):
    inspector.set_references([picture(0)])
    good = inspector.inspect(picture(0), use_language=False)
    assert (good.verdict, good.log_odds, good.answer, good.regions) == ("normal", None, "", [])
    strict(inspector)
    bad = inspector.inspect(picture(3), use_language=False, mm_per_pixel=0.5)
    assert bad.verdict == "anomalous"
    assert bad.pred_score == pytest.approx(float(bad.anomaly_map.max()) / 1e-4)
    assert bad.regions[0].width_mm == pytest.approx(bad.regions[0].width * 0.5)


def test_many_pictures_come_back_in_order_and_as_one_by_one(inspector, files):
    inspector.set_references([picture(0)])
    alone = [inspector.inspect(file) for file in files]
    batched = list(inspector.inspect_many(iter(files), batch_size=3, progress=False))
    assert [result.image for result in batched] == files
    for one, other in zip(alone, batched, strict=True):
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-5)
        assert one.log_odds == pytest.approx(other.log_odds, abs=1e-3)
        assert one.answer == other.answer


def test_errors_are_tried_again_when_a_run_is_resumed(inspector, files, tmp_path):
    rows, late = tmp_path / "results.jsonl", tmp_path / "late.png"
    options = {"progress": False, "results_file": rows, "answer": False}
    assert [r.verdict for r in inspector.inspect_many([str(late)], **options)] == ["error"]
    picture().save(late)
    assert [r.error for r in inspector.inspect_many([str(late)], resume=True, **options)] == [None]


def test_rows_are_json_and_read_back_equal(inspector, files, tmp_path):
    before = inspector.model.config.decision
    inspector.model.config.decision = {"region_threshold": 1e-3}
    try:
        inspector.set_references([picture(0)])
        options = {"use_language": False, "mm_per_pixel": 0.1, "results_file": tmp_path / "r.jsonl", "progress": False}
        results = list(inspector.inspect_many(files, **options))
    finally:
        inspector.model.config.decision = before
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert list(rows[0])[:8] == ["image", "verdict", "pred_score", "log_odds", "answer", "regions", "seconds", "error"]
    for result, row in zip(results, read_results(tmp_path / "r.jsonl"), strict=True):
        assert row.to_dict() == result.to_dict()
        assert row.regions == result.regions


def test_questions_about_a_result_keep_the_conversation(inspector):
    result = inspector.inspect(picture())
    turns = len(result.conversation)
    answer = inspector.ask(result, "Where is it?", max_new_tokens=6)
    assert len(result.conversation) == turns + 2
    assert result.conversation[-1] == {"role": "assistant", "content": answer}
    pieces = list(inspector.ask(result, "在哪里？", stream=True, max_new_tokens=6))
    assert "".join(pieces) == result.conversation[-1]["content"]


def test_results_from_a_file_cannot_be_asked(inspector):
    result = inspector.inspect(picture())
    copy = type(result).from_dict(result.to_dict())
    with pytest.raises(ValueError, match="`result` must hold what the model saw"):
        inspector.ask(copy, "Where?")
    with pytest.raises(ValueError, match="`question` must hold words"):
        inspector.ask(result, "  ")


def test_saved_references_give_the_same_maps(inspector, pair, tmp_path):
    inspector.set_references([picture(0), picture(1)], category="bolt")
    expected = inspector.inspect(picture(2), answer=False)
    inspector.save_references(tmp_path / "bank.safetensors")
    other = AnomalyInspector(*pair)
    other.load_references(tmp_path / "bank.safetensors")
    assert other.category == "bolt"
    np.testing.assert_array_equal(other.inspect(picture(2), answer=False).anomaly_map, expected.anomaly_map)
    tiled = AnomalyInspector(*pair, tile=32)
    with pytest.raises(ValueError, match="`memory_bank` must come from this encoder"):
        tiled.load_references(tmp_path / "bank.safetensors")


def test_saved_references_are_refused_where_a_setting_that_changes_scores_is_another(inspector, tmp_path):
    inspector.set_references([picture(0), picture(1)])
    inspector.save_references(tmp_path / "bank.safetensors")
    settings = {
        "self_similarity": 0.3, "map_smoothing": 2, "map_size": 56, "image_mean": (0.5, 0.4, 0.3),
        "image_std": (0.5, 0.5, 0.5), "resample": 2, "do_normalize": False,
    }  # fmt: skip
    for setting, value in settings.items():
        changes = {setting: value} if hasattr(inspector.model.config, setting) else {}
        model, processor = tiny_pair(out_indices=[1, 2], **changes)
        if not changes:
            setattr(processor.image_processor, setting, value)
        other = AnomalyInspector(model, processor)
        with pytest.raises(ValueError, match=rf"(?s)this encoder and its settings .+{setting}.+Build it again"):
            other.load_references(tmp_path / "bank.safetensors")
    other.set_references([picture(0), picture(1)])
    other.save_references(tmp_path / "other.safetensors")
    other.load_references(tmp_path / "other.safetensors")


def test_rotated_references_know_the_rotated_part(inspector):
    square = picture(0, size=(28, 28))
    inspector.set_references([square], rotations=True)
    assert inspector.num_references == 4
    assert inspector.inspect(square.rotate(180, expand=True), answer=False).pred_score < 1e-5


def test_a_reduced_bank_is_bounded(inspector):
    inspector.set_references([picture(0), picture(1)], max_patches=5)
    assert [len(layer) for layer in inspector.memory_bank.features] == [5, 5]


def test_tiles_of_a_large_picture_find_themselves_in_the_reference(pair):
    inspector = AnomalyInspector(*pair, tile=32)
    large = picture(0, size=(70, 90))
    inspector.set_references([large])
    result = inspector.inspect(large, answer=False)
    assert result.anomaly_map.shape == (70, 90)
    assert result.pred_score < 1e-5
    changed = np.asarray(large).copy()
    changed[50:62, 70:84] = 0
    anomaly_map = inspector.inspect(changed, answer=False).anomaly_map
    assert anomaly_map[50:62, 70:84].mean() > 3 * anomaly_map[:32, :32].mean()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.set_references([]), ValueError, "`images` must hold at least one good picture"),
        (lambda i: i.set_references(["none.png"]), FileNotFoundError, "none.png"),
        (lambda i: i.inspect(np.zeros((1, 1, 3), np.uint8)), PictureError, "1"),
        (lambda i: i.inspect(picture(), language="de"), ValueError, "`language` must be 'en' or 'zh', got 'de'"),
        (lambda i: i.inspect(picture(), mm_per_pixel=0.0), ValueError, "`mm_per_pixel` must be above 0 and at most 1"),
        (lambda i: i.inspect(picture(), localization="mean"), RuntimeError, "The memory bank is empty"),
        (lambda i: i.inspect(picture(), langage="en"), TypeError, "langage"),
        (lambda i: i.inspect_many([], batch_size=0), ValueError, "`batch_size` must be at least 1, got 0"),
        (lambda i: i.save_references("x"), RuntimeError, "Call `set_references` before"),
        (lambda i: AnomalyInspector(i.model, i.processor, 8), ValueError, "`tile` must be at least 32 pixels, got 8"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_in_one_sentence(inspector, call, error, message):
    with pytest.raises(error, match=message):
        call(inspector)


def test_maps_that_are_not_finite_are_an_error_not_a_verdict():
    model, processor = tiny_pair(out_indices=[1, 2])
    model.model.localizer.layers[0].weight.data[:] = float("nan")
    with pytest.raises(CheckpointError, match="The anomaly map must be finite, got NaN"):
        AnomalyInspector(model, processor).inspect(picture())


# One call, one snapshot


def test_options_and_keywords_mean_the_same_and_the_keywords_win(inspector):
    options = InspectionOptions(language="zh", answer=False)
    assert inspector.inspect(picture(), options).question == inspector.inspect(picture(), language="zh").question
    assert inspector.inspect(picture(), options, language="en").language == "en"
    inspector.set_references([picture(1)], category="bolt")
    assert inspector.inspect(picture()).category == "bolt"
    assert inspector.inspect(picture(), category="nut").category == "nut"


def test_references_that_are_set_meanwhile_do_not_enter_a_call_that_has_begun(inspector):
    inspector.set_references([picture(0)], "one")

    def pictures():
        yield picture(5)
        inspector.set_references([picture(1), picture(2)], "two")
        yield picture(6)

    found = inspector.inspect_many(pictures(), progress=False, answer=False, batch_size=1)
    assert [(one.category, one.evidence["num_references"]) for one in found] == [("one", 1)] * 2


# Copies


def test_copies_of_a_reference_change_nothing_and_are_named(inspector, files):
    inspector.set_references(files[:2])
    alone = inspector.inspect(files[2], answer=False)
    with pytest.warns(UserWarning, match="Copies of other references count once; left out: '.*0.png'"):
        inspector.set_references([*files[:2], files[0], picture(1)])
    with_copies = inspector.inspect(files[2], answer=False)
    assert inspector.num_references == 2
    assert with_copies.pred_score == pytest.approx(alone.pred_score)
    assert with_copies.evidence["num_normals"] == 2


def test_only_distinct_pictures_support_a_promise_and_references_are_refused(inspector, files):
    inspector.set_references(files[:1])
    with pytest.warns(UserWarning, match="3 of 5 pictures are copies of others and do not count"):
        learned = inspector.calibrate([files[1], files[2], *[files[1]] * 3], progress=False)
    assert (learned["num_normals"], learned["needed"], learned["enough"]) == (2, 149, False)
    before = inspector.references
    with pytest.raises(ValueError, match="`normals` must hold no reference, got '.*0.png', which is one or a copy"):
        inspector.calibrate(files, progress=False)
    assert inspector.references is before


# Calibration


def test_more_normals_move_the_threshold_to_the_highest_of_them_and_say_what_they_support(inspector):
    inspector.set_references([picture(0), picture(1)])
    normals = [picture(seed) for seed in range(2, 8)]
    learned = inspector.calibrate(normals, max_false_alarm=0.02, progress=False)
    assert learned["supported_false_alarm_rate"] == pytest.approx(1 - 0.05 ** (1 / 6))
    results = [inspector.inspect(normal, answer=False) for normal in normals]
    assert max(result.pred_score for result in results) == pytest.approx(1.0, abs=1e-3)
    assert all(result.verdict != "anomalous" for result in results)
    assert sum(result.verdict != "normal" for result in results) == learned["num_stopped"]
    assert results[0].evidence["num_normals"] == 6


def test_calibrating_needs_references_with_a_threshold_and_pictures_and_a_rate(inspector, tmp_path):
    with pytest.raises(RuntimeError, match="Call `set_references` before `calibrate`"):
        inspector.calibrate([picture(0)])
    inspector.set_references([picture(1)])
    with pytest.raises(ValueError, match="`false_alarm_rate` must be between 0 and 1, got 2"):
        inspector.calibrate([picture(0)], max_false_alarm=2)
    with (
        pytest.warns(UserWarning, match="Left out of the calibration"),
        pytest.raises(ValueError, match="`normals` must hold at least one good picture that can be read, got none"),
    ):
        inspector.calibrate([tmp_path / "missing.png"], progress=False)
    strict(inspector, None)
    with pytest.raises(ValueError, match="`references` must have a threshold, got none"):
        inspector.calibrate([picture(0)], progress=False)


def test_a_calibration_that_fails_leaves_everything_as_it_was(inspector, monkeypatch):
    inspector.set_references([picture(0)])
    inspector.calibrate([picture(1), picture(2)], progress=False)
    before = inspector.references

    def fails(batch, *rest):
        raise MemoryError

    monkeypatch.setattr(inspector, "_inspect_batch", fails)
    with pytest.raises(MemoryError):
        inspector.calibrate([picture(3), picture(4)], progress=False)
    assert inspector.references is before


def test_while_it_calibrates_no_picture_is_kept(inspector, files, monkeypatch):
    inspector.set_references(files[:1])
    alive, real = [], inspector_module.false_alarm_threshold

    def counting(scores, rate):
        gc.collect()
        alive.append(sum(issubclass(type(one), Image.Image) for one in gc.get_objects()))
        return real(scores, rate)

    gc.collect()
    before = sum(issubclass(type(one), Image.Image) for one in gc.get_objects())
    monkeypatch.setattr(inspector_module, "false_alarm_threshold", counting)
    inspector.calibrate(files[1:], progress=False, batch_size=1)
    assert max(alive) - before < len(files[1:])


def test_taking_good_patches_out_ends_the_promise_of_a_calibration(inspector):
    inspector.set_references([picture(0), picture(1)])
    inspector.calibrate([picture(seed) for seed in range(2, 6)], progress=False)
    promised = inspector.references.calibration.supported_false_alarm_rate
    inspector.feedback(inspector.inspect(picture(9), answer=False), True)
    assert inspector.references.calibration.supported_false_alarm_rate == promised < 1
    inspector.feedback(inspector.inspect(picture(10), answer=False), False)
    result = inspector.inspect(picture(11), answer=False)
    assert result.evidence["supported_false_alarm_rate"] == 1
    assert not inspector.references.calibration.enough
    inspector.undo_feedback()
    assert inspector.references.calibration.supported_false_alarm_rate == promised


def test_a_picture_that_fits_no_canvas_gets_a_row_and_the_others_are_inspected(inspector, monkeypatch):
    real = inspector.encoder.encode

    def encode(images, *rest):
        if any(image.width > 5 * image.height for image in images):
            raise PictureError("`picture` must be less oblong, got 600 x 2.")
        return real(images, *rest)

    monkeypatch.setattr(inspector.encoder, "encode", encode)
    inspector.set_references([picture(0)])
    results = list(inspector.inspect_many([picture(1), picture(2, (2, 600)), picture(3)], batch_size=3, answer=False))
    assert [result.error for result in results] == [None, "`picture` must be less oblong, got 600 x 2.", None]


# Pose and nearest good patch


def test_a_good_part_in_another_pose_is_not_called_anomalous_without_a_word(inspector):
    inspector.set_references([picture(0, size=(28, 28))])
    strict(inspector, threshold=1e-3)
    result = inspector.inspect(picture(0, size=(28, 28)).rotate(90, expand=True), answer=True, use_language=False)
    assert result.verdict == "uncertain"
    assert "rotated by 90 degrees" in result.evidence["reasons"][0]["text"]
    other = inspector.inspect(picture(3, size=(28, 28)), use_language=False)
    assert other.verdict == "anomalous"


def test_a_part_in_a_region_of_interest_is_not_looked_at_in_another_pose(inspector):
    """The region would stay where it is while the defect is turned out of it."""
    good = np.asarray(picture(0, size=(28, 28)))
    bad = np.rot90(good).copy()
    roi = np.zeros((28, 28), bool)
    roi[:, :14] = True
    inspector.set_references([good], roi=roi)
    strict(inspector, threshold=1e-3)
    assert inspector.inspect(bad, use_language=False).verdict == "anomalous"


def test_a_reference_keeps_its_number_where_a_copy_before_it_is_left_out(inspector):
    with pytest.warns(UserWarning, match="left out"):
        inspector.set_references([picture(0), picture(0), picture(1)])
    strict(inspector)
    nearest = inspector.inspect(picture(1), use_language=False)
    assert nearest.verdict == "normal"
    shown = np.asarray(picture(1)).copy()
    shown[:4, :4] = 255 - shown[:4, :4]
    numbers = {region.nearest_good["reference"] for region in inspector.inspect(shown, use_language=False).regions}
    assert numbers == {2}


# Feedback


@pytest.fixture
def taught(inspector, files, tmp_path):
    inspector.set_references([files[0]])
    inspector.feedback_history = FeedbackHistory(tmp_path / "audit.jsonl")
    return inspector


def test_a_picture_called_good_scores_nothing_afterwards_and_as_before_when_undone(taught, files):
    before = taught.inspect(files[1], answer=False)
    taught.feedback(before, is_normal=True)
    assert taught.inspect(files[1], answer=False).pred_score < 1e-2 * before.pred_score
    with pytest.raises(ValueError, match="`image` must be a new good picture, got '.*1.png', which is known already"):
        taught.feedback(before, is_normal=True)
    taught.undo_feedback()
    assert taught.inspect(files[1], answer=False).pred_score == pytest.approx(before.pred_score)


def test_a_missed_defect_scores_higher_afterwards(taught, files):
    before = taught.inspect(files[1], answer=False)
    patches = len(taught.memory_bank.features[0])
    taught.feedback(before, is_normal=False)
    assert taught.inspect(files[1], answer=False).pred_score > before.pred_score
    assert len(taught.memory_bank.features[0]) < patches


def test_everything_said_is_in_the_audit_file(taught, files, tmp_path):
    taught.feedback(taught.inspect(files[1], answer=False), is_normal=True)
    taught.undo_feedback()
    rows = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [row.get("is_normal", row.get("undo")) for row in rows] == [True, True]
    assert rows[0]["image"] == files[1]
    assert rows[0]["patches"] == sum(map(len, taught.memory_bank.features))


def test_feedback_is_about_what_was_judged_though_the_file_shows_another_part_by_now(taught, files):
    result = taught.inspect(files[1], answer=False)
    picture(9).save(files[1])
    taught.feedback(result, is_normal=True)
    assert taught.inspect(picture(1), answer=False).pred_score < 1e-2 * result.pred_score
    assert taught.inspect(picture(9), answer=False).pred_score > 1e-2 * result.pred_score


def _blurred(image):
    return image.filter(ImageFilter.GaussianBlur(6))


def _white(image):
    return Image.new("RGB", image.size, (250, 250, 250))


@pytest.mark.parametrize("change", [_blurred, _white])
def test_a_good_picture_that_could_not_be_compared_can_be_after_it_was_called_good(pair, tmp_path, change):
    inspector, strange = AnomalyInspector(*pair), change(picture(3))
    inspector.set_references([picture(0), picture(1)])
    before = inspector.inspect(strange, answer=False)
    hindrances = {"unlike", "blur", "exposure"}
    assert before.verdict == "uncertain"
    assert {reason["kind"] for reason in before.evidence["reasons"]} & hindrances
    inspector.feedback(before, is_normal=True)
    after = inspector.inspect(strange, answer=False)
    assert not {reason["kind"] for reason in after.evidence["reasons"]} & hindrances
    inspector.save_references(tmp_path / "references.safetensors")
    again = AnomalyInspector(*pair)
    again.load_references(tmp_path / "references.safetensors")
    assert again.inspect(strange, answer=False).verdict == after.verdict
    inspector.undo_feedback()
    assert inspector.inspect(strange, answer=False).verdict == "uncertain"


@pytest.mark.parametrize("bits", [0, 17, 24, "12", True])
def test_a_depth_that_no_picture_has_is_refused(pair, bits):
    with pytest.raises(ValueError, match="`bits` must be a whole number from 1 to 16, got"):
        AnomalyInspector(*pair).set_references([picture(0)], bits=bits)


def test_good_pictures_are_counted_once_also_with_rotated_copies(pair):
    inspector = AnomalyInspector(*pair)
    inspector.set_references([picture(0), picture(1)], rotations=True)
    result = inspector.inspect(picture(3), answer=False)
    assert result.evidence["num_references"] == 2


def test_what_was_said_about_other_references_is_not_undone(taught, files):
    taught.feedback(taught.inspect(files[1], answer=False), is_normal=True)
    taught.set_references([files[2]], category="zip")
    with pytest.raises(RuntimeError, match="There is no feedback to undo"):
        taught.undo_feedback()
    assert taught.category == "zip"


def test_nothing_to_undo_no_picture_and_no_references_are_refused(taught, pair, files):
    with pytest.raises(RuntimeError, match="There is no feedback to undo"):
        taught.undo_feedback()
    result = taught.inspect(picture(1), answer=False)
    with pytest.raises(ValueError, match="`image` must be given for a result that names no file, got None"):
        taught.feedback(replace(result, judged_image=None), is_normal=True)
    with pytest.raises(RuntimeError, match="Call `set_references` before `feedback`"):
        AnomalyInspector(*pair).feedback(result, is_normal=True, image=files[1])


def test_only_matches_of_what_stands_out_are_taken_out():
    good = MemoryBank.build((PatchFeatures(torch.eye(4).unsqueeze(0), (2, 2)),))
    bad = MemoryBank.build((PatchFeatures(torch.tensor([[[1.0, 0, 0, 0], [0.3, 0.3, 0.2, 0.9]]]), (1, 2)),))
    assert without_matches(good, bad).sources[0].tolist() == [0, 1, 2]


def test_the_depth_of_deep_pictures_is_found_in_the_references_and_kept(inspector, pair, tmp_path):
    """12 bits of a camera in files of 16: the same verdicts as in 8 bits, also after saving."""
    shallow = [np.asarray(picture(seed).convert("L")) for seed in range(4)]
    paths = []
    for seed, values in enumerate(shallow):
        paths.append(tmp_path / f"deep_{seed}.png")
        Image.fromarray(np.round(values * (4095 / 255)).astype(np.uint16)).save(paths[-1])
    inspector.set_references(shallow[:2])
    expected = inspector.inspect(shallow[3], answer=False).pred_score
    inspector.set_references(paths[:2])
    assert inspector.references.bits == 12
    inspector.save_references(tmp_path / "bank.safetensors")
    other = AnomalyInspector(*pair)
    other.load_references(tmp_path / "bank.safetensors")
    for one in (inspector, other):
        assert one.inspect(paths[3], answer=False).pred_score == pytest.approx(expected, rel=1e-3)
        (many,) = one.inspect_many([paths[3]], answer=False, progress=False)
        assert many.pred_score == pytest.approx(expected, rel=1e-3)


def test_facts_are_those_of_the_result_and_a_made_up_description_is_none():
    model, processor = tiny_pair(answering="grounded")
    inspector = AnomalyInspector(model.eval(), processor)
    inspector.set_references([picture(0), picture(2)], category="hinge pin")
    for options, described in (({}, None), ({"description": "a pin of brass"}, "a pin of brass")):
        result = inspector.inspect(picture(1), mm_per_pixel=0.1, **options)
        facts = result.facts
        assert (facts.verdict, facts.regions, facts.category) == (result.verdict, tuple(result.regions), "hinge pin")
        assert (facts.num_references, facts.description) == (2, described)
        assert facts.image_size == result.anomaly_map.shape
        assert facts.ratio == pytest.approx(result.pred_score)
        assert result.log_odds is None
    assert inspector.inspect(picture(1), category="pcb1").facts.description.startswith("This is a sensor board")


def test_a_grounded_model_is_not_asked_where_no_answer_is_wanted(monkeypatch):
    model, processor = tiny_pair(answering="grounded")
    inspector = AnomalyInspector(model.eval(), processor)
    inspector.set_references([picture(0), picture(2)])
    monkeypatch.setattr(model, "generate", lambda **_: pytest.fail("asked"))
    for options in ({"answer": False}, {"use_language": False}):
        result = inspector.inspect(picture(1), **options)
        assert (result.answer, result.conversation) == ("", [])


def test_a_grounded_model_answers_in_the_language_of_the_question(monkeypatch):
    inspector = AnomalyInspector(*tiny_pair(answering="grounded"))
    languages = []
    monkeypatch.setattr(
        inspector.dialogue, "answer", lambda asked, tokens, language, *rest: (languages.append(language) or [""], None)
    )
    inspector.set_references([picture(0)])
    for question in ("有缺陷吗？", "Is it fine?"):
        inspector.inspect(picture(1), question=question)
    assert languages == ["zh", "en"]


def test_a_conversation_with_a_grounded_model_begins_with_the_question_as_it_was_asked(monkeypatch):
    inspector = AnomalyInspector(*tiny_pair(answering="grounded"))
    monkeypatch.setattr(inspector.dialogue, "answer", lambda asked, *rest: (["Yes."] * len(asked), None))
    inspector.set_references([picture(0)], category="bolt", description="A bolt of steel.")
    result = inspector.inspect(picture(1), question="Is it fine?")
    assert [message["content"] for message in result.conversation] == ["Is it fine?", "Yes."]
    assert result.facts.description == "A bolt of steel."
