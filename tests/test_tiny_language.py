"""The conversations with which the embedded language model practises."""

import json
import re

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.followup_quality import UNHEARD
from modeling_anomalygpt import instruction_phrases_en as english
from modeling_anomalygpt import instruction_phrases_zh as chinese
from modeling_anomalygpt.facts import Facts
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.regions import regions_of_mask
from recipes.tiny.evidence import EvidenceFiles
from recipes.tiny.kinds import main as teach_kinds
from recipes.tiny.language import told_conversation
from recipes.tiny.prompts import HEADS_FILE, MapHeads
from recipes.tiny.unknowable_questions import unknowable_question
from tests.tiny import tiny_config
from tests.tiny_processor import make_processor


def facts(anomalous: bool) -> Facts:
    mask = np.zeros((224, 224), bool)
    mask[20:40, 20:60] = anomalous
    return Facts("bracket", mask.shape, regions_of_mask(mask), ["scratch"] if anomalous else [])


def test_questions_without_an_answer_are_many_and_none_of_them_is_measured_as_unheard():
    for language in ("en", "zh"):
        rng = np.random.default_rng(0)
        made = [unknowable_question(rng, language) for _ in range(3000)]
        assert len(set(made)) > 200
        assert not set(made) & set(UNHEARD[language])
        assert not set(english.QUESTIONS["unknowable"] + chinese.QUESTIONS["unknowable"]) & set(UNHEARD[language])
        assert all(question.endswith("?" if language == "en" else "？") for question in made)
        assert all(question.isascii() == (language == "en") for question in made)


def test_the_same_generator_tells_the_same_conversation():
    for language in ("en", "zh"):
        first, again = (
            [told_conversation(facts(index % 2 == 0), np.random.default_rng(index), language) for index in range(40)]
            for _ in range(2)
        )
        assert first == again


def test_a_question_without_an_answer_is_always_refused():
    refusals = {"en": english.ANSWERS["unknowable"], "zh": chinese.ANSWERS["unknowable"]}
    asked = 0
    for index in range(400):
        language = ("en", "zh")[index % 2]
        turns = told_conversation(facts(index % 3 == 0), np.random.default_rng(index), language)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        known = set(english.QUESTIONS["unknowable"] + chinese.QUESTIONS["unknowable"])
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if question["content"] in known:
                asked += 1
                assert answer["content"] in refusals[language]
    assert asked > 20


def test_a_name_is_only_said_after_the_user_has_said_it():
    for index in range(300):
        turns = told_conversation(facts(index % 2 == 0), np.random.default_rng(index), "en")
        heard = ""
        for turn in turns:
            if turn["role"] == "assistant" and "bracket" in turn["content"]:
                assert "bracket" in heard
            heard += turn["content"] if turn["role"] == "user" else ""


def test_seen_evidence_is_turned_as_a_whole(tmp_path):
    """Each cell's features hold the mean of the map in it, which must stay true however the sample is turned."""
    maps = np.kron(np.arange(1, 10, dtype=np.float16).reshape(1, 3, 3) / 20, np.ones((1, 4, 4), np.float16))
    mask = np.zeros((1, 24, 24), bool)
    mask[0, :4, :4] = True
    np.savez(
        tmp_path / "seen.npz",
        image_embeds=np.zeros((1, 2), np.float32),
        maps=maps,
        masks=np.packbits(mask, axis=-1),
        cells=maps[:, ::4, ::4].reshape(1, 9, 1),
        facts=json.dumps([{"category": "bracket", "defect_types": ["scratch"], "description": None}]),
    )
    seen, corners = EvidenceFiles([tmp_path / "seen.npz"]), set()
    for index in range(40):
        _, anomaly_map, cells, facts = seen.draw(np.random.default_rng(index))
        order = np.argsort(anomaly_map[::4, ::4], axis=None)
        np.testing.assert_array_equal(order, np.argsort(cells[:, 0]))
        corners.add(corner := facts.regions[0].row * 3 + facts.regions[0].column)
        assert order[0] == corner
    assert corners == {0, 2, 6, 8}


def test_kinds_are_learned_from_features_by_cell_and_nothing_else_is_changed(tmp_path, capsys):
    rng, sizes = np.random.default_rng(0), {"map_size": 28, "num_map_prompts": 9}
    checkpoint, heads = tmp_path / "checkpoint", tmp_path / "heads"
    model = AnomalyGPTForConditionalGeneration(tiny_config(cell_features=True, **sizes))
    model.save_pretrained(checkpoint)
    make_processor().save_pretrained(checkpoint)
    heads.mkdir()
    save_file(MapHeads(32).state_dict(), heads / HEADS_FILE)
    rows, kinds = 200, ("scratch", "hole")
    mask = np.zeros((rows, 24, 24), bool)
    mask[:, 2:6, 2:6] = True
    dim = 2 * 2 * 24  # two layers, in the cell and in the whole picture
    cells = rng.normal(size=(rows, 9, dim)).astype(np.float16)
    cells[:, 0, :4] += np.where(np.arange(rows) % 2, 3, -3)[:, None]
    np.savez(
        tmp_path / "seen.npz",
        image_embeds=np.zeros((rows, 2), np.float32),
        maps=rng.random((rows, 28, 28)).astype(np.float16),
        masks=np.packbits(mask, axis=-1),
        cells=cells,
        facts=json.dumps(
            [{"category": "x", "defect_types": [kinds[row % 2]], "description": None} for row in range(rows)]
        ),
    )
    arguments = ["--checkpoint", checkpoint, "--heads", heads, "--evidence", tmp_path / "seen.npz"]
    teach_kinds([str(one) for one in [*arguments, "--output", tmp_path / "taught", "--steps", 40]])
    assert float(re.search(r"kept back: ([\d.]+)", capsys.readouterr().out)[1]) > 0.9
    taught = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "taught").state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, taught[name])}
    assert changed
    assert all("cell_projection" in name for name in changed)
    before, after = load_file(heads / HEADS_FILE), load_file(tmp_path / "taught" / HEADS_FILE)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"kind.weight", "kind.bias"}
