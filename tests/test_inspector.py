"""The inspector: references in, results out, in the pictures' own pixels, whatever is handed to it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt.checkpoints import CheckpointError
from modeling_anomalygpt.images import PictureError
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.results import InspectionResult, ResultsFile, read_results
from tests.tiny import tiny_pair


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


def test_the_map_has_the_size_of_the_picture(inspector):
    for size in ((40, 52), (200, 31), (28, 28)):
        assert inspector.inspect(picture(size=size)).anomaly_map.shape == size


def test_without_references_the_state_vectors_are_used(inspector):
    assert inspector.inspect(picture()).evidence["localization"] == "text_guided"


def test_the_verdict_is_the_sign_of_the_log_odds(inspector):
    for seed in range(3):
        result = inspector.inspect(picture(seed), answer=False)
        assert result.verdict == ("anomalous" if result.log_odds > 0 else "normal")
        assert result.answer == ""


def test_log_odds_are_those_of_a_plain_forward_pass(inspector):
    model, processor = inspector.model, inspector.processor
    result = inspector.inspect(picture(), question="Is it broken?")
    inputs = processor(images=picture(), text="Is it broken?", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    prefix, yes, no = processor.yes_no_token_ids("en")
    assert prefix == []
    expected = logits[yes].logsumexp(0) - logits[no].logsumexp(0)
    assert result.log_odds == pytest.approx(expected.item(), abs=1e-4)


def test_without_the_language_model_the_map_decides(inspector):
    inspector.set_references([picture(0)])
    good = inspector.inspect(picture(0), use_language=False)
    assert (good.verdict, good.log_odds, good.answer, good.regions) == ("normal", None, "", [])
    bank = inspector.memory_bank
    inspector.observer.memory_bank = replace(bank, limit=1e-4, notes={})
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


def test_a_bad_picture_gives_a_row_and_stops_nothing(inspector, files, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    names = [files[0], str(tmp_path / "broken.png"), str(tmp_path / "missing.png"), files[1]]
    results = list(inspector.inspect_many(names, batch_size=4, progress=False, answer=False))
    assert [result.verdict == "error" for result in results] == [False, True, True, False]
    assert "broken.png" in results[1].error
    assert "\n" not in results[1].error
    assert results[1].anomaly_map is None


def test_a_failing_batch_is_tried_picture_by_picture(inspector, files, monkeypatch):
    whole = inspector._inspect_batch

    def only_single(batch, **options):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("no memory")
        if batch[0][0] == files[1]:
            raise MemoryError
        return whole(batch, **options)

    monkeypatch.setattr(inspector, "_inspect_batch", only_single)
    results = list(inspector.inspect_many(files[:3], batch_size=3, progress=False, answer=False))
    assert [result.error is None for result in results] == [True, False, True]
    assert results[1].error.startswith("Not enough memory for this picture")


def test_an_interrupted_run_goes_on_where_it_stopped(inspector, files, tmp_path):
    rows = tmp_path / "results.jsonl"
    stream = inspector.inspect_many(files, progress=False, results_file=rows, answer=False)
    first = [next(stream), next(stream)]
    stream.close()
    with rows.open("a") as file:
        file.write('{"image": "cut of')  # as a kill in the middle of a line leaves it
    resumed = list(inspector.inspect_many(files, progress=False, results_file=rows, resume=True, answer=False))
    assert [result.image for result in resumed] == files
    assert [result.evidence.get("resumed", False) for result in resumed] == [True, True, False, False]
    assert resumed[0].log_odds == pytest.approx(first[0].log_odds, abs=1e-6)
    assert [row.image for row in read_results(rows)] == files


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


def test_a_file_name_that_is_no_utf8_survives_the_results_file(tmp_path):
    rows = ResultsFile(tmp_path / "r.jsonl", resume=False)
    rows.append(InspectionResult(image="teil\udcff.png", verdict="normal", answer="没有"))
    assert "没有" in (tmp_path / "r.jsonl").read_text(encoding="utf-8")
    assert list(ResultsFile(tmp_path / "r.jsonl", resume=True).finished) == ["teil\udcff.png"]


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
    other.load_references(tmp_path / "bank.safetensors", category="bolt")
    np.testing.assert_array_equal(other.inspect(picture(2), answer=False).anomaly_map, expected.anomaly_map)
    tiled = AnomalyInspector(*pair, tile=32)
    with pytest.raises(ValueError, match="`memory_bank` must come from this encoder"):
        tiled.load_references(tmp_path / "bank.safetensors")


def test_rotated_references_know_the_turned_part(inspector):
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
        (lambda i: i.set_references([]), ValueError, "`pictures` must hold at least one good picture"),
        (lambda i: i.set_references(["none.png"]), FileNotFoundError, "none.png"),
        (lambda i: i.inspect(np.zeros((1, 1, 3), np.uint8)), PictureError, "1"),
        (lambda i: i.inspect(picture(), language="de"), ValueError, "`language` must be 'en' or 'zh', got 'de'"),
        (lambda i: i.inspect(picture(), mm_per_pixel=0.0), ValueError, "`mm_per_pixel` must be above 0, got 0.0"),
        (lambda i: i.inspect(picture(), localization="mean"), RuntimeError, "The memory bank is empty"),
        (lambda i: i.inspect(picture(), langage="en"), TypeError, "got langage"),
        (lambda i: next(i.inspect_many([], batch_size=0)), ValueError, "`batch_size` must be at least 1, got 0"),
        (lambda i: i.save_references("x"), RuntimeError, "Call `set_references` before"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_in_one_sentence(inspector, call, error, message):
    with pytest.raises(error, match=message):
        call(inspector)


def test_tiles_must_be_large_enough(pair):
    with pytest.raises(ValueError, match="`tile` must be at least 32 pixels, got 8"):
        AnomalyInspector(*pair, tile=8)


def test_maps_that_are_not_finite_are_an_error_not_a_verdict():
    model, processor = tiny_pair(out_indices=[1, 2])
    model.model.localizer.layers[0].weight.data[:] = float("nan")
    with pytest.raises(CheckpointError, match="The anomaly map must be finite, got NaN"):
        AnomalyInspector(model, processor).inspect(picture())
