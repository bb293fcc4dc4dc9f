"""Conversations: what is fed back to the model, what it is told, how fields become words."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from modeling_anomalygpt.dialogue import Dialogue, language_of, recent, with_facts
from modeling_anomalygpt.wording import FIELDS, MeasuredFacts, facts_in_words, fill_in
from tests.conversations.drawn_facts import region
from tests.tiny import enlivened, tiny_pair


def conversation(num_questions: int, words: str = "Where is it?") -> list[dict[str, str]]:
    messages = []
    for index in range(num_questions):
        answer = {"role": "assistant", "content": f"There {index}."}
        messages += [{"role": "user", "content": f"{words} {index}"}, answer]
    return messages[:-1]


def heard(dialogue: Dialogue, messages: list[dict[str, str]], monkeypatch, max_new_tokens: int = 8, facts=None) -> str:
    """What the model is given of a conversation, as text."""
    given = {}

    def generate(**inputs):
        given.update(inputs)
        inputs["streamer"].end()

    monkeypatch.setattr(dialogue.model, "generate", generate)
    assert list(dialogue.stream(messages, torch.zeros(1, 8, 32), max_new_tokens, facts)) == []
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


FACTS = MeasuredFacts("anomalous", (region(0, 2),), (90, 90), 2.0, num_references=2, category="hinge pin")


@pytest.fixture(scope="module")
def grounded():
    return tiny_pair(answering="grounded")


@pytest.mark.parametrize(
    ("asked", "language", "heard_as"),
    [
        ("Where is the Hinge Pin bent?", "en", "Where is the item bent?"),
        ("这个hinge pin有问题吗？", "zh", "这个物件有问题吗？"),
    ],
)
def test_a_grounded_model_hears_what_was_measured_and_the_last_two_questions(
    grounded, monkeypatch, asked, language, heard_as
):
    model, processor = grounded
    messages = [*conversation(4), {"role": "assistant", "content": "There."}, {"role": "user", "content": asked}]
    text = heard(Dialogue(model, processor), messages, monkeypatch, facts=FACTS)
    assert text.count("Human:") == 1
    assert text.count("Where is it?") == 1
    two = {"en": "Before: Where is it? 3 Now: ", "zh": "之前：Where is it? 3 现在："}[language]
    assert f"{facts_in_words(FACTS, language)} {two}{heard_as}" in text
    alone = heard(Dialogue(model, processor), messages[-1:], monkeypatch, facts=FACTS)
    assert f"{facts_in_words(FACTS, language)} {heard_as}" in alone
    assert "top right" in text or "右上角" in text


def test_a_part_called_by_a_chinese_name_does_not_make_a_question_chinese():
    assert language_of("Is the 齿轮箱 broken?", "齿轮箱") == "en"
    assert language_of("齿轮箱坏了吗？", "齿轮箱") == "zh"


@pytest.mark.parametrize("pieces", [1, 3, 7, 100])
@pytest.mark.parametrize("category", ["GX-7 zipper", "axle", "齿轮"])
def test_fields_are_filled_in_however_the_words_come_and_never_shown(grounded, monkeypatch, category, pieces):
    model, processor = grounded
    text = "The @name differs @ratio as much at the @places; write to a@b. Sizes: @sizes"
    facts = replace(FACTS, category=category)

    def generate(streamer, **_):
        for start in range(0, len(text), pieces):
            streamer.on_finalized_text(text[start : start + pieces])
        streamer.end()

    monkeypatch.setattr(model, "generate", generate)
    question = {"role": "user", "content": "Describe it."}
    shown = []
    for piece in Dialogue(model, processor).stream([question], torch.zeros(1, 8, 32), 20, facts):
        shown.append(piece)
        assert not any(f"@{name}" in "".join(shown) for name in FIELDS)
    assert "".join(shown) == fill_in(text, facts, "en")
    assert f"The {category} differs 2 times as much at the top right;" in "".join(shown)


class Parrot:
    """A model that answers "@again" to "Pardon?" and the number of pardons asked for to everything else."""

    def __init__(self, processor):
        self.processor, self.calls = processor, 0

    def __call__(self, input_ids, streamer=None, **_):
        self.calls += 1
        texts = [self.processor.tokenizer.decode(row).split("Now: ")[-1] for row in input_ids]
        said = ["@again" if "Pardon?" in text else f"Number @count, call {self.calls}." for text in texts]
        if streamer is not None:
            for piece in (said[0][:3], said[0][3:]):
                streamer.on_finalized_text(piece)
            return streamer.end()
        ids = self.processor.tokenizer(said, padding=True, return_tensors="pt")["input_ids"]
        logits = (torch.zeros(len(texts), len(self.processor.tokenizer)),)
        return SimpleNamespace(sequences=torch.cat([input_ids, ids], 1), logits=logits)


@pytest.mark.parametrize("pardons", [1, 3])
def test_asked_to_say_it_again_the_question_before_is_answered_again(grounded, monkeypatch, pardons):
    model, processor = grounded
    monkeypatch.setattr(model, "generate", Parrot(processor))
    dialogue, seen = Dialogue(model, processor), torch.zeros(1, 8, 32)
    messages = conversation(2)
    for _ in range(pardons):
        messages += [{"role": "assistant", "content": "One."}, {"role": "user", "content": "Pardon?"}]
    streamed = "".join(dialogue.stream(messages, seen, 20, FACTS))
    assert streamed == f"Number one, call {pardons + 1}."
    monkeypatch.setattr(model, "generate", Parrot(processor))
    both = [messages, conversation(3)]
    answers, _ = dialogue.answer(both, seen.expand(2, -1, -1), "en", 20, [FACTS, FACTS])
    assert answers == [streamed, "Number one, call 1."]


def test_asked_to_say_it_again_at_the_beginning_it_says_that_it_has_said_nothing_yet(grounded, monkeypatch):
    model, processor = grounded
    monkeypatch.setattr(model, "generate", Parrot(processor))
    dialogue, seen, asked = Dialogue(model, processor), torch.zeros(1, 8, 32), [{"role": "user", "content": "Pardon?"}]
    for said in (
        "".join(dialogue.stream(asked, seen, 20, FACTS)),
        dialogue.answer([asked], seen, "en", 20, [FACTS])[0][0],
    ):
        assert said == "I have said nothing yet: ask me what I found in the picture."


def plain_words(dialogue: Dialogue, question: str, length: int) -> str:
    """What `generate` says by itself, a token at a time."""
    messages = with_facts([{"role": "user", "content": question}], FACTS, "en")
    inputs = dialogue._inputs([messages], torch.zeros(1, 8, 32), length)
    ids = dialogue.model.generate(
        **inputs, max_new_tokens=length, do_sample=False, stopping_criteria=dialogue.processor.stopping_criteria()
    )[0]
    return fill_in(dialogue.processor.strip_answer(ids[inputs["input_ids"].shape[1] :]), FACTS, "en")


@pytest.mark.parametrize("num_virtual_tokens", [0, 3])
def test_answers_that_came_before_make_later_ones_faster_and_never_other(num_virtual_tokens):
    model, processor = tiny_pair(answering="grounded", num_virtual_tokens=num_virtual_tokens)
    enlivened(model)
    dialogue, seen, passes = Dialogue(model, processor), torch.zeros(1, 8, 32), []
    model.model.language_model.register_forward_pre_hook(lambda *_: passes.append(1))
    questions = ["Where?", "How large?", "Where?", "What kind?", "Where is it?", "How large?"]
    counts = []
    for question, length in [*((one, 12) for one in questions), ("Where?", 5), ("Where?", 20)]:
        expected = plain_words(dialogue, question, length)
        asked = [{"role": "user", "content": question}]
        passes.clear()
        assert dialogue.answer([asked], seen, "en", length, [FACTS])[0] == [expected]
        counts.append(len(passes))
        assert "".join(dialogue.stream(asked, seen, length, FACTS)) == expected
    assert counts[0] == 12
    assert counts[2] <= 2
    assert sum(counts) < 60


def test_no_draft_reaches_beyond_the_longest_answer():
    model, processor = tiny_pair(answering="grounded")
    dialogue, seen, lengths = Dialogue(enlivened(model), processor), torch.zeros(1, 8, 32), []
    asked = [[{"role": "user", "content": "Where?"}]]
    dialogue.answer(asked, seen, "en", 12, [FACTS])
    model.model.language_model.register_forward_pre_hook(
        lambda module, arguments, options: lengths.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for longest in (3, 1):
        dialogue.answer(asked, seen, "en", longest, [FACTS])
    assert lengths == [lengths[1] + 2, lengths[1]]


def test_an_answer_is_weighed_alike_with_and_without_earlier_ones():
    model, processor = tiny_pair(answering="grounded")
    dialogue, seen = Dialogue(enlivened(model), processor), torch.zeros(1, 8, 32)
    asked = [[{"role": "user", "content": "Is there any anomaly?"}]]
    first, again = (dialogue.answer(asked, seen, "en", 12, [FACTS])[1][0] for _ in range(2))
    assert first == pytest.approx(again, abs=1e-4)


def test_a_model_whose_cache_forgets_answers_without_drafts():
    model, processor = tiny_pair(answering="grounded")
    dialogue, seen = Dialogue(enlivened(model), processor), torch.zeros(1, 8, 32)
    model.config.text_config.layer_types = ["sliding_attention"] * model.config.text_config.num_hidden_layers
    model.config.text_config.sliding_window = 16
    asked = [[{"role": "user", "content": "Where?"}]]
    first, again = (dialogue.answer(asked, seen, "en", 12, [FACTS])[0][0] for _ in range(2))
    assert first == again == plain_words(dialogue, "Where?", 12)
