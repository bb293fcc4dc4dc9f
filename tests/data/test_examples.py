"""Samples for evaluation during training: the same each time, fixed references, where the answer is decided."""

import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt.conversations.grounded import load_answers
from modeling_anomalygpt.data.examples import EvaluationExamples, ExampleEncoder, Wording
from modeling_anomalygpt.data.sources import SourceRows, labelled_example
from modeling_anomalygpt.training.collator import InspectionCollator
from tests.inspection_rows import answers, decoded, inspection_rows
from tests.tiny import tiny_pair
from tests.tiny_processor import make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def test_samples_hold_question_answer_label_and_target(processor):
    examples = EvaluationExamples(inspection_rows(2, 2), processor)
    assert len(examples) == 4
    assert [examples[index]["image_label"] for index in range(4)] == [0, 0, 1, 1]
    for index in range(4):
        sample = examples[index]
        assert answers(sample, processor).startswith("Yes" if index > 1 else "No")
        assert bool(sample["mask_labels"].any()) == (index > 1)
        assert sample["use_reference"] is False
    batch = InspectionCollator(processor)([examples[index] for index in range(4)])
    assert batch["image_labels"].tolist() == [0, 0, 1, 1]


def test_pictures_without_a_label_are_not_measured_as_good_ones(processor):
    rows = inspection_rows(3, 2).map(lambda row: {"label": None if row["image_id"] == "nut/1" else row["label"]})
    with pytest.warns(UserWarning, match="1 of the 5 rows of 'evaluation' have no label, 0 .*, and are left out"):
        examples = EvaluationExamples(rows, processor)
    assert [(sample["image_id"], sample["image_label"]) for sample in examples] == [
        ("nut/0", 0), ("nut/2", 0), ("nut/3", 1), ("nut/4", 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"must hold rows with a label, 0 \(normal\) or 1 .*, got none among 5"):
        EvaluationExamples(rows.map(lambda row: {"label": None}), processor)


def test_references_are_drawn_once_from_the_same_category(processor):
    rows = datasets.concatenate_datasets([inspection_rows(1, 1, "nut"), inspection_rows(1, 1, "bolt", 100)])
    good = datasets.concatenate_datasets([inspection_rows(5, 0, "nut", 40), inspection_rows(5, 0, "bolt", 140)])
    examples = EvaluationExamples(rows, processor, references=good, shots=2, seed=5)
    for index in range(4):
        sample = examples[index]
        assert sample["reference_pixel_values"].shape == (2, 3, 28, 28)
        levels = [decoded(one, processor.image_processor)[0, -2, -2] for one in sample["reference_pixel_values"]]
        assert len(set(levels)) == 2
        assert all((level >= 140) == (index > 1) for level in levels)
    np.testing.assert_array_equal(examples[0]["reference_pixel_values"], examples[1]["reference_pixel_values"])
    again = EvaluationExamples(rows, processor, references=good, shots=2, seed=5)
    np.testing.assert_array_equal(again[0]["reference_pixel_values"], examples[0]["reference_pixel_values"])
    seeds = {
        EvaluationExamples(rows, processor, references=good, seed=seed)[0]["reference_pixel_values"].tobytes()
        for seed in range(12)
    }
    assert len(seeds) > 2


def test_a_part_of_the_rows_holds_both_labels(processor):
    examples = EvaluationExamples(inspection_rows(20, 6), processor, num_examples=8)
    labels = [examples[index]["image_label"] for index in range(8)]
    assert labels == [0] * 4 + [1] * 4
    assert examples.chosen == EvaluationExamples(inspection_rows(20, 6), processor, num_examples=8).chosen
    few = EvaluationExamples(inspection_rows(20, 2), processor, num_examples=8)
    assert [few[index]["image_label"] for index in range(8)].count(1) == 2


def test_the_position_after_the_question_decides_as_the_prompt_alone_does():
    model, processor = tiny_pair()
    sample = EvaluationExamples(inspection_rows(1, 0), processor)[0]
    prefix, yes, no = processor.yes_no_token_ids("en")
    batch = InspectionCollator(processor)([sample])
    del batch["image_labels"]
    first = next(index for index, label in enumerate(sample["labels"]) if label != -100)
    prompt = torch.tensor([sample["input_ids"][:first] + prefix])
    assert sample["input_ids"][first : first + len(prefix)] == prefix
    assert sample["input_ids"][first + len(prefix)] in no
    with torch.no_grad():
        taught = model(**batch).logits[0, first - 1 + len(prefix)]
        asked = model(input_ids=prompt, pixel_values=batch["pixel_values"]).logits[0, -1]
    torch.testing.assert_close(taught[yes + no], asked[yes + no], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_evaluated_is_refused(processor):
    with pytest.raises(ValueError, match="'evaluation' must have the columns image, label, got .* Add label"):
        EvaluationExamples(inspection_rows().remove_columns("label"), processor)
    with pytest.raises(ValueError, match="`shots` must be at least 1, got 0"):
        EvaluationExamples(inspection_rows(), processor, shots=0)
    with pytest.raises(ValueError, match="`num_examples` must be at least 1, got 0"):
        EvaluationExamples(inspection_rows(), processor, num_examples=0)
    with pytest.raises(ValueError, match="`shots` must be at most 2, the normal pictures of 'nut' in 'references of"):
        EvaluationExamples(inspection_rows(), processor, references=inspection_rows(2), shots=4)
    with pytest.raises(ValueError, match=r"'references of evaluation' must hold normal pictures \(label 0\) of nut"):
        EvaluationExamples(inspection_rows(), processor, references=inspection_rows(2, 0, "bolt"))


def test_a_grounded_model_learns_to_speak_of_what_the_mask_shows(processor):
    rows = SourceRows(inspection_rows(6, 6), "rows")
    wording, rng = Wording({"en": 1, "zh": 1}, grounded=True), np.random.default_rng(0)
    known = {text for language in ("en", "zh") for cases in load_answers(language).values() for text in cases.values()}
    verdicts = set()
    for index in range(12):
        example = labelled_example(rows[index], str(index), "rows")
        for _ in range(20):
            question, answer = wording.messages(example, rng)
            told = re.match("Measured: (normal|anomalous), |测量：(正常|异常)、", question["content"])
            verdicts.add((bool(example.anomalous), told[1] or told[2]))
            assert re.sub("@(top|bottom)?(left|right|center|top|bottom)(?=：|:)", "@at", answer["content"]) in known
    assert verdicts == {(False, "normal"), (False, "正常"), (True, "anomalous"), (True, "异常")}


def test_a_grounded_model_is_evaluated_by_the_usual_question_about_what_the_mask_shows(processor):
    samples = EvaluationExamples(inspection_rows(2, 2), processor, wording=Wording(grounded=True))
    for sample in samples:
        assert answers(sample, processor).startswith(
            "Yes, there" if sample["image_label"] else "No, there is no anomaly"
        )


def test_evaluation_asks_in_the_first_language_and_with_the_description_that_training_has(processor):
    wording = Wording({"zh": 1, "en": 1}, descriptions={"nut": "BRIGHT"})
    sample = EvaluationExamples(inspection_rows(1, 0), processor, wording=wording)[0]
    assert "BRIGHT" in processor.tokenizer.decode(sample["input_ids"])
    assert answers(sample, processor).startswith("否")


@pytest.mark.parametrize("size", [(28, 28), (28, 56)])
def test_a_rotated_reference_never_is_the_picture_itself(size):
    processor = make_processor()
    processor.image_processor.size = {"height": size[0], "width": size[1]}
    encode = ExampleEncoder(processor)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    upright = encode.references([picture])
    for turns in (1, 2, 3):
        rotated = encode.references([picture], turns)
        assert rotated.shape == upright.shape == (1, 3, *size)
        assert not np.array_equal(rotated, upright)
