"""MMAD: the format, the likelihoods against a loop over tokens, the counting against numbers worked by hand."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt.cli import main
from modeling_anomalygpt.dialogue import with_facts
from modeling_anomalygpt.evaluation.mmad import (
    SUBTASKS,
    MMADAnswerer,
    MMADError,
    Question,
    answer_likelihoods,
    finished_answers,
    read_questions,
    summarize_answers,
)
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import tiny_pair

DETECTION = {
    "Question": "Is there any defect in the object?",
    "Options": {"A": "Yes.", "B": "No."},
    "type": "Anomaly Detection",
}
KIND = {
    "Question": "What is the type of the defect?",
    "Options": {"A": "A scratch.", "B": "A hole.", "C": "A stain of oil on the thread.", "D": "None."},
    "Answer": "A",
    "type": "Defect Classification",
}
OBJECT = {
    "Question": "What is the object?", "Options": {"A": "Nut.", "B": "Bolt."}, "Answer": "B", "type": "Object Details",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four pictures of two data sets in MMAD's format, with templates."""
    place = tmp_path_factory.mktemp("mmad")
    model, processor = tiny_pair()
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    rng = np.random.default_rng(0)
    entries = {}
    for image, conversation in (
        ("VisA/bolt/test/good/0.png", [DETECTION | {"Answer": "B"}, OBJECT]),
        ("VisA/bolt/test/bad/1.png", [DETECTION | {"Answer": "A"}, KIND]),
        ("GoodsAD/tin/test/good/2.png", [DETECTION | {"Answer": "B"}]),
        ("GoodsAD/tin/test/opened/3.png", [DETECTION | {"Answer": "A"}, KIND]),
    ):
        templates = [f"{image.split('/')[0]}/train/{number}.png" for number in range(2)]
        for name in (image, *templates):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(place / name)
        entries[image] = {
            "image_path": image, "conversation": conversation, "mask_path": "", "random_templates": templates,
            "similar_templates": templates[::-1],
        }  # fmt: skip
    (place / "mmad.json").write_text(json.dumps(entries))
    return place


@pytest.fixture(scope="module")
def inspector(place):
    return AnomalyInspector.from_pretrained(str(place / "model"), device="cpu")


def test_questions_templates_and_limits_are_read(place):
    questions = read_questions(place / "mmad.json")
    assert len(questions) == 4
    asked, templates = questions["VisA/bolt/test/good/0.png"]
    assert [one.subtask for one in asked] == ["Anomaly Detection", "Object Analysis"]
    assert asked[0].is_normal
    assert asked[0].dataset == "VisA"
    assert templates == ["VisA/train/0.png", "VisA/train/1.png"]
    written = (place / "mmad.json").read_text()
    (place / "mmad.json").write_text(written, encoding="utf-8-sig")  # a byte order mark is not a part of it
    assert read_questions(place / "mmad.json") == questions
    assert read_questions(place / "mmad.json", "similar")["VisA/bolt/test/good/0.png"][1] == templates[::-1]
    assert list(read_questions(place / "mmad.json", limit=2)) == [list(questions)[0], list(questions)[2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no"),
        ("{", "must be JSON"),
        ("[]", "must map pictures to conversations, got list"),
        ('{"a.png": {}}', "The entry 'a.png'"),
        (json.dumps({"a.png": {"conversation": [KIND | {"Answer": "E"}]}}), "answer 'E' is none of the options"),
        (json.dumps({"a.png": {"conversation": [KIND | {"type": "Riddle"}]}}), "type 'Riddle' is unknown"),
    ],
)
def test_files_that_are_no_questions_are_told(tmp_path, content, message):
    if content is not None:
        (tmp_path / "mmad.json").write_text(content)
    with pytest.raises(MMADError, match=re.escape(message)):
        read_questions(tmp_path / "mmad.json")


def test_an_answers_likelihood_is_the_mean_over_its_tokens(inspector):
    model, processor = inspector.model, inspector.processor
    (look,) = inspector.encoder.encode([Image.new("RGB", (28, 28), "grey")], None, "object", "auto")
    turns = [
        {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A nut."},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    answers = ["A nut.", "A rather long answer about a bolt.", "No."]
    found = answer_likelihoods(model, processor, turns, answers, look.image_tokens)
    for answer, got in zip(answers, found, strict=True):
        encoded = processor.encode_conversation([*turns, {"role": "assistant", "content": answer}])
        ids = torch.tensor([encoded["input_ids"]])
        embedded = model.get_input_embeddings()(ids).clone()
        embedded[ids == model.config.image_token_id] = look.image_tokens[0].clone()
        with torch.no_grad():
            logits = model(inputs_embeds=embedded).logits[0]
        last = []  # of the earlier answers only the last one is weighed
        for position, label in enumerate(encoded["labels"]):
            if label == -100:
                before, last = last, []
            else:
                last.append(float(logits[position - 1].log_softmax(0)[label]))
        assert got == pytest.approx(np.mean(last or before), abs=1e-4)


def test_detection_is_the_models_own_question_and_others_the_likeliest_option(place, inspector):
    questions = read_questions(place / "mmad.json")
    answerer = MMADAnswerer(inspector, place, k_shot=1)
    image = "VisA/bolt/test/bad/1.png"
    detection, kind = answerer.answer(*questions[image])
    (look,) = inspector.encoder.encode(
        [Image.open(place / image).convert("RGB")], inspector.references, "object", "auto"
    )
    turns = [{"role": "user", "content": "Is there any anomaly in the image?"}]
    _, (log_odds,) = inspector.dialogue.answer([turns], look.image_tokens, "en", 1)
    assert detection["given"] == ("A" if log_odds > 0 else "B")
    likelihoods = answer_likelihoods(
        inspector.model, inspector.processor, [{"role": "user", "content": KIND["Question"]}],
        list(KIND["Options"].values()), look.image_tokens,
    )  # fmt: skip
    assert kind["given"] == "ABCD"[int(np.argmax(likelihoods))]
    assert kind["likelihoods"] == pytest.approx(likelihoods, abs=1e-3)
    assert inspector.num_references == 1


def test_wrong_options_are_refused(place, inspector):
    with pytest.raises(ValueError, match="`--score` must be one of text, letter, got 'luck'"):
        MMADAnswerer(inspector, place, score="luck")
    with pytest.raises(ValueError, match="`--k-shot` must be at least 0, got -1"):
        MMADAnswerer(inspector, place, k_shot=-1)
    with pytest.raises(ValueError, match="`--templates` must be one of random, similar, got 'best'"):
        read_questions(place / "mmad.json", "best")
    asked = read_questions(place / "mmad.json")["VisA/bolt/test/bad/1.png"]
    with pytest.raises(MMADError, match="must have 3 templates, got 2"):
        MMADAnswerer(inspector, place, k_shot=3).answer(*asked)
    rows = MMADAnswerer(inspector, place, k_shot=0, score="letter").answer(*asked)
    assert [len(row["likelihoods"]) for row in rows] == [2, 4]
    assert {row["given"] for row in rows} <= set("ABCD")


def test_detection_counts_good_and_defective_pictures_alike():
    def row(image, subtask, right):
        return vars(Question(image, 0, subtask, "?", {"A": "", "B": ""}, "A")) | {"given": "A" if right else "B"}

    answers = [row("X/good/1", SUBTASKS[0], right) for right in (True, False, False, False)]
    answers += [row("X/bad/1", SUBTASKS[0], True)] * 2
    answers += [row("X/bad/1", SUBTASKS[1], right) for right in (True, False)]
    answers += [row("Y/bad/1", SUBTASKS[1], True)]
    table = summarize_answers(answers)
    assert table["X"][SUBTASKS[0]] == pytest.approx((0.25 + 1) / 2)
    assert (table["X"]["overkill"], table["X"]["miss"]) == (0.75, 0.0)
    assert table["X"]["average"] == pytest.approx((0.625 + 0.5) / 2)
    assert table["Y"][SUBTASKS[0]] is None
    assert table["Y"]["average"] == 1
    assert table["Average"][SUBTASKS[1]] == pytest.approx(0.75)
    assert table["Average"]["questions"] == 9


def MODEL(place):
    return ("--model", place / "model", "--device", "cpu")


def call(capfd, *words):
    code = main(["mmad", *(str(word) for word in words)])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command_prints_a_table_and_goes_on_where_it_was_cut_off(place, capfd, tmp_path):
    words = ("--data-dir", place, *MODEL(place), "--output", tmp_path / "answers.jsonl")
    code, out, err = call(capfd, *words)
    assert code == 0, err
    assert "overkill" in out.splitlines()[0]
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["VisA", "GoodsAD", "Average"]
    assert out.splitlines()[4].split()[-1] == "7"
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 5
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    assert len(finished_answers(tmp_path / "answers.jsonl")) == 2
    code, again, err = call(capfd, *words)
    assert code == 0, err
    assert again == out
    code, _, err = call(capfd, *words, "--k-shot", 0)
    assert code == 2
    assert "with another k_shot" in err


def test_wrong_input_is_one_line_and_exit_code_2(place, capfd, tmp_path):
    record = {"name": "visa", "split": "test", "num_rows": 3, "fingerprint": "f", "labels": "supervised"}
    words = ("--data-dir", place, *MODEL(place), "--output", tmp_path / "a.jsonl")
    (place / "model" / "training_data.json").write_text(json.dumps({"datasets": [record]}))
    try:
        code, out, err = call(capfd, *words)
    finally:
        (place / "model" / "training_data.json").unlink()
    assert (code, out) == (2, "")
    assert "`--model` must not have seen the pictures" in err
    output = ("--output", tmp_path / "a.jsonl")
    for wrong, message in (
        (("--data-dir", tmp_path / "no", *output), "`--data-dir` must be a folder that exists"),
        (("--data-dir", tmp_path, *output), "There is no"),
        (("--data-dir", place, "--output", tmp_path / "no" / "a.jsonl"), "`--output` must be in a folder that exists"),
    ):
        code, out, err = call(capfd, *wrong)
        assert (code, out) == (2, "")
        assert err.strip().splitlines()[-1].startswith("anomalygpt mmad: error: ")
        assert message in err


def test_a_model_that_speaks_of_what_was_measured_detects_by_its_verdict_and_is_told_the_facts(place):
    grounded = AnomalyInspector(*tiny_pair(answering="grounded"))
    questions, image = read_questions(place / "mmad.json"), "VisA/bolt/test/bad/1.png"
    detection, kind = MMADAnswerer(grounded, place, k_shot=1).answer(*questions[image])
    result = grounded.inspect(place / image, answer=False)
    assert detection["given"] == ("A" if result.evidence["decision_score"] > 0 else "B")
    messages = with_facts([{"role": "user", "content": KIND["Question"]}], result.facts, "en")
    likelihoods = answer_likelihoods(
        grounded.model, grounded.processor, messages, list(KIND["Options"].values()), result.image_tokens
    )
    assert kind["likelihoods"] == pytest.approx(likelihoods, abs=1e-3)
    grounded.model.config.decision = {"needs_references": True}
    with pytest.raises(MMADError, match="`--k-shot` must be at least 1 for a model that compares"):
        MMADAnswerer(grounded, place, k_shot=0).answer(*questions[image])
