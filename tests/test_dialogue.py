"""Conversations: what is fed back to the model, in which language it answers, how it calls the part."""

import pytest
import torch

from modeling_anomalygpt.dialogue import Dialogue, recent
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.prompts import category_name
from tests.tiny import tiny_pair
from tests.tiny_processor import picture


def conversation(num_questions: int, words: str = "Where is it?") -> list[dict[str, str]]:
    messages = []
    for index in range(num_questions):
        answer = {"role": "assistant", "content": f"There {index}."}
        messages += [{"role": "user", "content": f"{words} {index}"}, answer]
    return messages[:-1]


def heard(dialogue: Dialogue, messages: list[dict[str, str]], monkeypatch, max_new_tokens: int = 8) -> str:
    """What the model is given of a conversation, as text."""
    given = {}

    def generate(**inputs):
        given.update(inputs)
        inputs["streamer"].end()

    monkeypatch.setattr(dialogue.model, "generate", generate)
    assert list(dialogue.stream(messages, torch.zeros(1, 8, 32), max_new_tokens)) == []
    ids = [int(token) for token in given["input_ids"][0] if token != dialogue.processor.image_token_id]
    return dialogue.processor.tokenizer.decode(ids)


@pytest.mark.parametrize("max_history", [None, 0, 2])
def test_the_model_is_given_the_first_question_and_as_many_later_ones_as_it_bears(monkeypatch, max_history):
    model, processor = tiny_pair(max_history=max_history)
    text = heard(Dialogue(model, processor), conversation(7, "W"), monkeypatch)
    kept = [index for index in range(7) if f"W {index}" in text]
    answers = [index for index in range(7) if f"There {index}." in text]
    assert kept == {None: list(range(7)), 0: [0, 6], 2: [0, 4, 5, 6]}[max_history]
    assert answers == kept[:-1]


def test_a_conversation_longer_than_the_models_positions_loses_its_oldest_questions_first(monkeypatch):
    model, processor = tiny_pair()
    dialogue, longest = Dialogue(model, processor), model.config.text_config.max_position_embeddings
    text = heard(dialogue, conversation(30), monkeypatch, max_new_tokens=20)
    assert text.count("Where is it?") > 2
    assert "Where is it? 0" in text
    assert "Where is it? 29" in text
    assert len(processor.tokenizer(text)["input_ids"]) + model.config.num_prompt_tokens + 20 <= longest + 20
    assert recent(conversation(3), 5) == conversation(3)


@pytest.fixture(scope="module")
def inspector() -> AnomalyInspector:
    """The embedded checkpoint: it forgets, mixes languages and cannot spell unless it is guided."""
    inspector = AnomalyInspector.from_pretrained(device="cpu")
    inspector.set_references([picture(0, (64, 64))])
    return inspector


QUESTIONS = {"en": ("What object is this?", "Where is it?"), "zh": ("这是什么物体？", "异常在哪里？")}


@pytest.mark.parametrize(
    ("category", "language"), [("zipper", "en"), ("hinge_pin", "zh"), ("M8x40 hex bolt", "en"), ("齿轮箱", "zh")]
)
def test_a_chat_of_any_length_keeps_to_the_language_asked_and_to_the_name_given(inspector, category, language):
    other = {"en": "zh", "zh": "en"}[language]
    result = inspector.inspect(picture(1, (64, 64)), category=category, language=language)
    for asked in (language, other, language):
        for question in QUESTIONS[asked]:
            answer, name = inspector.ask(result, question, max_new_tokens=20), category_name(category, asked)
            if question == QUESTIONS[asked][0]:
                assert name in answer
            rest = answer.replace(name, "")
            assert any("\u4e00" <= letter <= "\u9fff" for letter in rest) == (asked == "zh"), answer


def test_streamed_pieces_join_to_the_answer_and_never_show_what_stands_for_a_name(inspector):
    for category, language in (("hinge pin", "en"), ("hinge pin", "zh")):
        result = inspector.inspect(picture(1, (64, 64)), category=category, language=language)
        earlier = list(result.conversation)
        pieces = list(inspector.ask(result, QUESTIONS[language][0], stream=True))
        assert result.conversation[: len(earlier)] == earlier
        assert "".join(pieces) == result.conversation[-1]["content"]
        assert "object" not in "".join(pieces)
        assert "物" not in "".join(pieces)


@pytest.mark.parametrize("pieces", [1, 3, 7, 100])
@pytest.mark.parametrize("category", ["GX-7 zipper", "axle", "O-ring"])
def test_a_name_is_whole_however_the_words_come(inspector, monkeypatch, category, pieces):
    text = "The image shows an object with an anomaly. An object is a thing, as objects are; an objection is an"

    def generate(streamer, **_):
        for start in range(0, len(text), pieces):
            streamer.on_finalized_text(text[start : start + pieces])
        streamer.end()

    monkeypatch.setattr(inspector.dialogue.model, "generate", generate)
    question = {"role": "user", "content": f"Describe the {category}."}
    stream = inspector.dialogue.stream([question], torch.zeros(1, 1, 1), 20, category)
    named = f"an {category}" if category[0] in "aeiouAEIOU" else f"a {category}"
    assert "".join(stream) == text.replace("an object ", f"{named} ").replace("An object ", f"A{named[1:]} ")
