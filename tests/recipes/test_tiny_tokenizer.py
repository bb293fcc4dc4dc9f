"""The small tokenizer: nothing is lost; numbers, Chinese and fields stand alone; vectors keep their sense."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from modeling_anomalygpt.prompts import NO_WORDS, YES_WORDS
from modeling_anomalygpt.wording import FIELDS
from recipes.tiny import tokenizer as recipe
from recipes.tiny.tokenizer import SPECIAL_TOKENS, chosen_tokens, conversation_texts, small_tokenizer, word_vectors

TEXTS = conversation_texts()[::20]


@pytest.fixture(scope="module")
def base() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@pytest.fixture(scope="module")
def tokenizer(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "conversation_texts", lambda: TEXTS)
        small_tokenizer(base, 400).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_special_tokens_survive_saving_and_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.image_token, tokenizer.image_token_id) == ("<image>", 3)


def test_any_text_comes_back_as_it_went_in(tokenizer):
    rng = random.Random(0)
    ranges = [(0, 0x7F), (0xA0, 0x24F), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF), (0, 0xD7FF), (0xE000, 0x10FFFF)]
    for low, high in ranges * 6:
        text = "".join(chr(rng.randint(low, high)) for _ in range(60))
        assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text


def test_yes_and_no_begin_with_other_tokens(tokenizer):
    for language in ("en", "zh"):
        assert tokenizer(YES_WORDS[language]).input_ids[0] != tokenizer(NO_WORDS[language]).input_ids[0]


def test_digits_characters_and_fields_stand_alone(tokenizer):
    assert tokenizer.tokenize("128.5") == list("128.5")
    ids = tokenizer("图像中有异常吗？").input_ids
    assert [tokenizer.decode([index]) for index in ids] == list("图像中有异常吗？")
    for name in FIELDS:
        assert tokenizer.tokenize(f"the @{name}.")[-2] == f"@{name}"


def test_what_the_conversations_need_is_kept_as_the_base_writes_it(base, tokenizer):
    for text in TEXTS:
        if text.isascii() and not any(letter in "@{" or letter.isdigit() for letter in text):
            assert tokenizer.tokenize(text) == base.tokenize(text), text
    assert len(tokenizer) < len(base) + 4000


def test_a_kept_token_brings_all_that_it_is_merged_from():
    model = {
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "ca": 6},
        "merges": [["a", "b"], ["b", "c"], ["ab", "c"], ["c", "a"]],
    }
    tokens, merges = chosen_tokens(model, ["abc"], 1)
    assert tokens == ["a", "b", "c", "ab", "abc"]
    assert merges == [["a", "b"], ["ab", "c"]]


def test_vectors_in_fewer_dimensions_keep_what_lies_beside_what():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 40)) + 5
    small = word_vectors(plane, 3, 0.04)
    assert small.shape == (50, 3)
    assert small.std() == pytest.approx(0.04, rel=1e-5)
    far, near = (np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (plane, small))
    assert np.allclose(far / far.max(), near / near.max(), atol=1e-4)
