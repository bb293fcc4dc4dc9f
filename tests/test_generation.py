"""Answers: cached and uncached, batched, by beams, streamed, over several turns; one look serves all."""

import threading

import pytest
import torch
from transformers import DynamicCache, TextIteratorStreamer

from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import (
    IMAGE_TOKEN,
    CallCounter,
    enlivened,
    left_padded,
    lively_model,
    one_row,
    tiny_inputs,
    tiny_pair,
)

NEW = 5
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> AnomalyGPTForConditionalGeneration:
    return lively_model()


@pytest.fixture(scope="module")
def inputs(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config)


def look(model, inputs):
    seen = {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.get_image_features(**seen)


def words_of(inputs):
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def greedy_by_hand(model, inputs, steps=NEW, forbidden=(IMAGE_TOKEN, 2)) -> torch.Tensor:
    """Greedy decoding by whole forward passes, without `generate`: the specification."""
    inputs = dict(inputs)
    for _ in range(steps):
        logits = model(**inputs).logits[:, -1]
        logits[:, list(forbidden)] = -torch.inf
        best = logits.argmax(-1, keepdim=True)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], best], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(best)], dim=1)
    return inputs["input_ids"]


def test_generation_equals_greedy_decoding_by_hand(model, inputs):
    expected = greedy_by_hand(model, inputs)
    assert len(expected[:, -NEW:].unique()) > 1
    assert torch.equal(model.generate(**inputs, **GREEDY), expected)


def test_generation_without_a_cache_equals_generation_with_one(model, inputs):
    cached = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
    uncached = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-4, rtol=1e-4)


def test_the_picture_is_looked_at_once(model, inputs):
    with CallCounter(model.model.vision_tower) as tower:
        expected = model.generate(**inputs, **GREEDY)
        assert tower.calls == 1
        features = look(model, inputs)
        answer = model.generate(**words_of(inputs), mm_encoder_outputs={"image": features}, **GREEDY)
        assert tower.calls == 2
        model.generate(**inputs, **GREEDY, use_cache=False)
        assert tower.calls == 3
    assert torch.equal(answer, expected)
    torch.testing.assert_close(features.anomaly_map, model(**inputs).anomaly_map)


def test_answers_to_questions_of_different_lengths_equal_each_alone(model, inputs):
    together = model.generate(**left_padded(inputs, missing=[0, 3]), **GREEDY)
    for row, missing in ((0, 0), (1, 3)):
        alone = model.generate(**one_row(inputs, row, missing), **GREEDY)
        assert torch.equal(together[row, -NEW:], alone[0, -NEW:])


def test_references_of_any_kind_reach_the_answer(model, inputs):
    references = torch.randn(1, 2, 3, 28, 28).expand(2, -1, -1, -1, -1)
    bank = MemoryBank.build(model.model.get_patch_features(references[0]))
    options = GREEDY | {"output_logits": True, "return_dict_in_generate": True}
    by_pictures = model.generate(**inputs, reference_pixel_values=references, **options)
    by_bank = model.generate(**inputs, memory_bank=bank, **options)
    assert torch.equal(by_bank.sequences, by_pictures.sequences)
    torch.testing.assert_close(by_bank.logits[0], by_pictures.logits[0], atol=1e-4, rtol=1e-4)
    without = model.generate(**inputs, **options)
    asked_not_to = model.generate(**inputs, memory_bank=bank, localization="text", **options)
    assert (without.logits[0] - by_bank.logits[0]).abs().max() > 1e-3
    torch.testing.assert_close(asked_not_to.logits[0], without.logits[0])


# Beams and samples


def test_the_best_beam_is_at_least_as_probable_as_the_greedy_answer(model, inputs):
    def log_probability(sequences):
        with torch.no_grad():
            logits = model(**(inputs | {"input_ids": sequences, "attention_mask": torch.ones_like(sequences)})).logits
        logits[:, :, [IMAGE_TOKEN, 2]] = -torch.inf
        scores = logits[:, -NEW - 1 : -1].log_softmax(-1)
        return scores.gather(2, sequences[:, -NEW:, None]).sum((1, 2))

    beams = model.generate(**inputs, **GREEDY, num_beams=4, num_return_sequences=2)
    assert beams.shape == (4, inputs["input_ids"].shape[1] + NEW)
    best = log_probability(beams[::2])
    assert (best >= log_probability(model.generate(**inputs, **GREEDY)) - 1e-4).all()


# Placeholders


def test_a_placeholder_is_never_generated(inputs):
    model = lively_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[IMAGE_TOKEN] = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        assert model(**inputs).logits[0, -1].argmax() == IMAGE_TOKEN
    assert model.generation_config.suppress_tokens == [IMAGE_TOKEN]
    answer = model.generate(**inputs, **GREEDY)[:, -NEW:]
    assert (answer != IMAGE_TOKEN).all()


# Several turns


def test_a_second_turn_on_the_cache_equals_a_fresh_run(model, inputs):
    single = one_row(inputs, 0)
    first = model.generate(**single, **GREEDY, past_key_values=DynamicCache(config=model.config.get_text_config()),
                           return_dict_in_generate=True)  # fmt: skip
    question = torch.tensor([[7, 21, 33, 8]])
    history = torch.cat([first.sequences, question], dim=1)
    with CallCounter(model.model.vision_tower) as tower:
        second = model.generate(input_ids=history, past_key_values=first.past_key_values, **GREEDY)
        assert tower.calls == 0
    fresh = model.generate(**(single | {"input_ids": history, "attention_mask": torch.ones_like(history)}), **GREEDY)
    assert torch.equal(second, fresh)


# Embeddings instead of words


def test_embeddings_alone_give_the_new_words(model, inputs):
    expected = model.generate(**inputs, **GREEDY)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    assert torch.equal(model.generate(**rest, inputs_embeds=embeds, **GREEDY), expected[:, -NEW:])
    both = model.generate(**inputs, inputs_embeds=embeds, **GREEDY)
    assert torch.equal(both[:, -NEW:], expected[:, -NEW:])


# Streaming


def test_a_streamed_answer_equals_the_whole_one():
    model, processor = tiny_pair()
    enlivened(model)
    inputs = processor(
        images=torch.zeros(30, 30, 3, dtype=torch.uint8).numpy(), text="Is it good?", return_tensors="pt"
    )
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    whole = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert len(pieces) > 1
    assert "".join(pieces) == processor.tokenizer.decode(whole, skip_special_tokens=True)
