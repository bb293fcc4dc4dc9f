"""Trains the small tokenizer of the embedded checkpoint on the project's own conversations.

Byte-level byte pairs: any text comes back exactly as it went in. Digits stand alone, and so do Chinese characters, so
that numbers and unseen questions are made of known pieces.

    python -m recipes.tiny.tokenizer --output DIR [--seed 0] [--vocab-size 2304]
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datasets_scripts import FAMILIES, render_product
from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.conversations.instructions import conversation
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.prompts import DESCRIPTIONS
from modeling_anomalygpt.regions import regions_of_mask

from .inspection_vocabulary import CHINESE, ENGLISH

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
VOCAB_SIZE = 2304
CONTEXT_LENGTH = 1024
_PROMPT_PIECES = ("### Human: <Img>", "</Img> ", "Human: ", "\n### Assistant:", "\n###")


def random_facts(category: str, rng: np.random.Generator, description: dict[str, str] | None = None) -> Facts:
    """Facts about a picture that nobody took: up to five boxes as regions, a kind of defect, sometimes a scale.

    Args:
        category (`str`): Name of the object.
        rng (`np.random.Generator`): Decides on everything else.
        description (`dict[str, str]`, *optional*): Of a good object, for each language.

    Returns:
        `Facts`: Half of them without a region.
    """
    height, width = (int(side) for side in rng.integers(64, 320, 2))
    mask = np.zeros((48, 48), bool)
    kinds: list[str] = []
    if rng.random() < 0.5:
        for _ in range(int(rng.choice(5, p=[0.6, 0.2, 0.1, 0.06, 0.04])) + 1):
            y, x = rng.integers(0, 40, 2)
            mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = True
        kinds = [str(rng.choice(list(load_phrases("en")["kinds"])))] if rng.random() < 0.7 else []
    scale = float(rng.choice([0.01, 0.02, 0.05, 0.1, 0.125, 0.25, 0.5])) if rng.random() < 0.3 else None
    mask = np.repeat(np.repeat(mask, -(-height // 48), 0), -(-width // 48), 1)[:height, :width]
    return Facts(category, (height, width), regions_of_mask(mask), kinds, description, scale)


def training_texts(seed: int = 0, conversations: int = 12_000) -> Iterator[str]:
    """The texts to learn from: pieces of the prompt, conversations in both languages, phrases, words.

    Args:
        seed (`int`, *optional*, defaults to 0): The same seed gives the same texts.
        conversations (`int`, *optional*, defaults to 12000): Number of conversations.

    Returns:
        `Iterator[str]`: Texts as they reach the tokenizer: a prompt's piece, a question or an answer each.
    """
    rng = np.random.default_rng(seed)
    known = [(description.en_name, None) for description in DESCRIPTIONS.values()]
    categories: list[tuple[str, dict[str, str] | None]] = [(name, None) for name in (*DESCRIPTIONS, "object")] + known
    for family in FAMILIES:
        for _ in range(12):
            design = render_product(family, np.random.default_rng(rng.integers(2**32))).design
            categories.append((family, {"en": design.description, "zh": design.description_zh}))
    for index in range(conversations):
        category, description = categories[int(rng.integers(len(categories)))]
        facts = random_facts(category, rng, description)
        for message in conversation(facts, rng, ("en", "zh")[index % 2], max_turns=4):
            yield from _PROMPT_PIECES
            yield message["content"]
    for language in ("en", "zh"):
        for table in ("questions", "answers"):
            for options in load_phrases(language)[table].values():
                for phrase in options if isinstance(options, list) else (options,):
                    yield re.sub(r"\{\w+\}", "", phrase)
    for _ in range(3):
        yield from (f" {word}" for word in ENGLISH.split())
        yield CHINESE


def train_tokenizer(texts: Iterator[str] | Sequence[str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer of the texts.

    Args:
        texts (`Iterator[str]` or `Sequence[str]`): What to learn from.
        vocab_size (`int`, *optional*, defaults to 2304): Number of tokens, special tokens and the 256 bytes included.

    Returns:
        `PreTrainedTokenizerFast`: With `<pad>`, `<s>`, `</s>` and `image_token` `<image>` (ids 0 to 3); adds none
            by itself.

    Raises:
        ValueError: If the vocabulary is too small for the bytes.
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"`vocab_size` must be at least {256 + len(SPECIAL_TOKENS)}, got {vocab_size}. Raise it.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[\u3400-\u9fff]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=CONTEXT_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and saves the tokenizer.

    Args:
        arguments (`Sequence[str]`, *optional*): Words of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to save the tokenizer in")
    parser.add_argument("--seed", type=int, default=0, help="seed of the conversations (default: 0)")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help=f"number of tokens (default: {VOCAB_SIZE})")
    parser.add_argument("--conversations", type=int, default=12_000, help="how many to learn from (default: 12000)")
    options = parser.parse_args(arguments)
    tokenizer = train_tokenizer(training_texts(options.seed, options.conversations), options.vocab_size)
    tokenizer.save_pretrained(options.output)
    print(f"{len(tokenizer)} tokens -> {options.output}")


if __name__ == "__main__":
    main()
