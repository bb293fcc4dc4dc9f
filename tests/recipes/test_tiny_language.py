"""The questions with which the language models practise, and how several about one picture share its facts."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.conversations.grounded import draw_question, load_answers, load_questions
from modeling_anomalygpt.wording import FIELDS
from recipes.tiny.assemble import grow
from recipes.tiny.drawn_evidence import draw_evidence
from recipes.tiny.language import (
    FACT_TOPICS,
    FIRST_TOKENS,
    MIXED,
    TOPIC_QUESTIONS,
    Questions,
    collate,
    first_layers,
    main,
    packed,
)
from recipes.tiny.rough_questions import roughened
from tests.tiny import tiny_pair


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(answering="grounded")


@pytest.fixture(scope="module")
def data(pair):
    model, processor = pair
    return Questions(processor, model.config, batches=20, batch_size=2, seed=3, questions=4)


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for one in pair:
        one.save_pretrained(folder)
    return folder


def test_questions_that_share_a_beginning_are_computed_as_if_each_stood_alone(pair, data):
    model, processor = pair
    language_model, embeddings = model.model.language_model, model.get_input_embeddings()
    rng = np.random.default_rng(0)
    sample = data.sample(rng)
    rng = np.random.default_rng(0)  # the same once more, unpacked
    conversations = []
    data.about_a_picture(rng, 4, lambda *facts: conversations.append(data.conversation(*facts)) or conversations[-1])
    assert packed(conversations)["input_ids"] == sample["input_ids"]
    batch = collate([sample], processor.tokenizer.pad_token_id)
    with torch.no_grad():
        together = language_model(
            inputs_embeds=embeddings(batch["input_ids"]),
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
        ).last_hidden_state[0][batch["labels"][0] != -100]
        alone = [
            language_model(inputs_embeds=embeddings(torch.tensor([one["input_ids"]]))).last_hidden_state[0, :-1][
                torch.tensor(one["labels"][1:]) != -100
            ]
            for one in conversations
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    targets = [label for one in conversations for label in one["labels"] if label != -100]
    assert batch["labels"][0][batch["labels"][0] != -100].tolist() == targets


def test_the_beginning_is_kept_once_and_every_question_has_a_token_of_its_own():
    one = {"input_ids": [1, 2, 3, 4, 9], "labels": [-100, -100, -100, -100, 9]}
    other = {"input_ids": [1, 2, 3, 4, 8], "labels": [-100, -100, -100, -100, 8]}
    found = packed([one, other])
    assert found == {
        "input_ids": [1, 2, 3, 4, 9, 4, 8],
        "labels": [-100, -100, -100, 9, -100, 8, -100],
        "position_ids": [0, 1, 2, 3, 4, 3, 4],
        "owners": [0, 0, 0, 1, 1, 2, 2],
    }


def test_batches_are_the_same_in_every_run_and_all_answers_are_known_ones(pair, data):
    model, processor = pair
    again = Questions(processor, model.config, batches=20, batch_size=2, seed=3, questions=4)
    for index in (0, 7, 12):
        first, second = data[index], again[index]
        assert all(torch.equal(first[name], second[name]) for name in first)
    known = {
        answer.replace("@at", f"@{place}")
        for language in ("en", "zh")
        for cases in load_answers(language).values()
        for answer in cases.values()
        for place in FIELDS
    }
    whole = begun = 0
    for row in data[5]["labels"].tolist():
        answers = [[*group] for trained, group in itertools.groupby(row, lambda label: label != -100) if trained]
        for ids in answers:
            text = processor.tokenizer.decode(ids).strip()
            whole += text.endswith("###") and text.removesuffix("###").strip() in known
            begun += len(ids) == FIRST_TOKENS and any(answer.startswith(text.rstrip("#\n")) for answer in known)
        assert len(answers) == 4
    assert whole + begun == 8
    assert min(whole, begun) > 0


def test_of_an_unanswered_question_the_topic_is_asked_where_the_answer_would_begin(pair, monkeypatch):
    model, processor = pair
    topics = []

    def drawn(rng, topic, *arguments, **options):
        topics.append(topic)
        return draw_question(rng, topic, *arguments, **options)

    monkeypatch.setattr("recipes.tiny.language.draw_question", drawn)
    monkeypatch.setattr("recipes.tiny.language.BEFORE_UNANSWERED", 0)
    monkeypatch.setattr("recipes.tiny.language.roughened", lambda text, *_, **__: text)
    data = Questions(processor, model.config, batches=8, batch_size=1, seed=2, questions=1, unanswered=1)
    sample = data.topics_sample(np.random.default_rng(4))
    numbers = [label for label in sample["labels"] if label != -100]
    assert [data.all_topics[number] for number in numbers] == topics
    assert len(topics) == TOPIC_QUESTIONS
    ids = [token for token, label in zip(sample["input_ids"], sample["labels"], strict=True) if label != -100]
    assert len(set(ids)) == 1, "the end of what stands before every answer"
    assert data[3]["topics"]["labels"].shape[0] == 1


def test_the_first_layers_alone_say_what_they_say_in_the_whole_model(pair):
    language_model = pair[0].model.language_model
    ids = torch.arange(10, 30)[None]
    whole = language_model(input_ids=ids, output_hidden_states=True)
    first = first_layers(language_model)
    count = first.config.num_hidden_layers
    assert 0 < count < language_model.config.num_hidden_layers == len(whole.hidden_states) - 1
    torch.testing.assert_close(first(input_ids=ids)[0], language_model.norm(whole.hidden_states[count]))
    torch.testing.assert_close(language_model(input_ids=ids)[0], whole[0])


def test_topics_are_learned_and_what_reads_them_is_not_kept(saved, tmp_path):
    sizes = ["--steps", "40", "--batch-size", "1", "--questions", "1", "--unanswered", "1", "--mixed", "0"]
    paths = ["--checkpoint", str(saved), "--output", str(tmp_path)]
    main([*paths, *sizes, "--learning-rate", "1e-2"])
    (state,) = tmp_path.glob("trainer/checkpoint-*/trainer_state.json")
    losses = [row["topic_loss"] for row in json.loads(state.read_text())["log_history"] if "topic_loss" in row]
    assert losses[-1] < losses[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path))
    assert set(before) == set(after)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name], after[name])


def test_no_held_back_question_is_practised(pair, monkeypatch):
    model, processor = pair
    asked = []
    monkeypatch.setattr("recipes.tiny.language.roughened", lambda text, *_, **__: asked.append(text) or text)
    evidence = draw_evidence(np.random.default_rng(0), model.config.map_size)  # a question does not depend on it
    monkeypatch.setattr("recipes.tiny.language.draw_evidence", lambda *_: evidence)
    data = Questions(processor, model.config, batches=64, batch_size=4, seed=1, questions=10, unanswered=4)
    data[0], data[8]
    assert len(asked) > 1500
    for language in ("en", "zh"):
        kept = {text for texts in load_questions(language, held_back=True).values() for text in texts}
        assert not kept & set(asked)


def test_mixed_questions_are_practised_beside_the_others(pair, monkeypatch):
    model, processor = pair
    asked = []
    monkeypatch.setattr("recipes.tiny.language.roughened", lambda text, *_, **__: asked.append(text) or text)
    mixed = {language: dict.fromkeys(load_questions("en"), ("a mixed one",)) for language in ("en", "zh")}
    data = Questions(processor, model.config, batches=16, batch_size=4, seed=1, questions=10, mixed=mixed)
    data[0], data[8]
    assert asked.count("a mixed one") / len(asked) == pytest.approx(MIXED, abs=0.08)


def test_pictures_unlike_the_good_ones_and_questions_about_such_facts_are_practised_as_often_as_asked(
    pair, monkeypatch
):
    model, processor = pair
    asked = []

    def drawn(rng, topic, facts, *arguments, **options):
        asked.append((facts.condition, topic))
        return draw_question(rng, topic, facts, *arguments, **options)

    monkeypatch.setattr("recipes.tiny.language.draw_question", drawn)
    monkeypatch.setattr("recipes.tiny.language.BEFORE", 0)
    shares = {}
    for by_facts in (0.0, 0.5):
        data = Questions(processor, model.config, batches=24, batch_size=4, seed=1, questions=4, by_facts=by_facts)
        asked.clear()
        for index in (0, 8, 16):
            data[index]
        conditions, topics = zip(*asked, strict=True)
        shares[by_facts] = [
            np.mean([one != "fine" for one in conditions]),
            np.mean([one in FACT_TOPICS for one in topics]),
        ]
    usual = shares[0.0]
    assert shares[0.5] == pytest.approx([0.5 + 0.5 * share for share in usual], abs=0.15)
    assert max(usual) < 0.4


def test_roughened_questions_stay_questions_of_their_language():
    rng, kept = np.random.default_rng(0), []
    for language in ("en", "zh"):
        for text in load_questions(language)["where"] * 5:
            rough = roughened(text, rng, language, {"where": ("anywhere",)})
            assert 0.3 * len(text) < len(rough) < 2 * len(text) + 30
            kept.append(rough.isascii() == (language == "en"))
    assert np.mean(kept) > 0.999  # "POS点" without its last character is no Chinese


def test_a_question_whose_places_and_numbers_decide_keeps_all_of_its_words():
    rng, text = np.random.default_rng(0), "Are there three defects at the lower left corner"
    for _ in range(300):
        rough = roughened(text, rng, "en", {"three": ("four",), "lower": ("upper",), "left": ("right",)}, whole=True)
        assert len(rough.split()) >= len(text.split())
        assert not {"four", "upper", "right"} & set(rough.split())


@pytest.mark.parametrize("more", [1, 2])
def test_a_language_model_with_more_layers_says_the_same_and_can_learn_with_all_of_them(pair, saved, tmp_path, more):
    model, _ = pair
    layers = model.config.text_config.num_hidden_layers + more
    grow(saved, layers, tmp_path)
    grown = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path)
    assert len(grown.model.language_model.layers) == layers
    ids = torch.arange(10, 30)[None]
    logits = grown(input_ids=ids).logits
    torch.testing.assert_close(logits, model(input_ids=ids).logits)
    logits.square().mean().backward()
    for layer in grown.model.language_model.layers:
        assert layer.self_attn.o_proj.weight.grad.abs().max() > 0
    said = grown.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    assert said.equal(model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)), "the cache knows all layers"


def test_a_language_model_grows_to_at_most_twice_its_layers_at_once(pair, saved, tmp_path):
    before = pair[0].config.text_config.num_hidden_layers
    for layers in (before, before + 20):
        with pytest.raises(ValueError, match=rf"`layers` must be more than .* got {layers}\. Grow"):
            grow(saved, layers, tmp_path / "after")
