"""The tokens at both ends of an answer: which say Yes or No at its start, which stop it at its end.

Knows token ids; knows no words, pictures or weights.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

STOP_MARK = "###"
"""Ends every answer."""

Encode = Callable[[list[str]], list[list[int]]]


def yes_no_token_ids(
    encode: Encode, yes: str, no: str, commas: Sequence[str]
) -> tuple[list[int], list[int], list[int]]:
    """Where an answer decides between two words.

    Tokenizers that write a letter as several bytes, or a space as a token of its own, give both words the same first
    tokens; these come first. The words are tokenized alone and before a comma, since some tokenizers join a word with
    what follows.

    Args:
        encode (`Callable`): Token ids of each of a list of texts, each alone.
        yes (`str`): First word of an answer that agrees.
        no (`str`): First word of an answer that denies.
        commas (`list[str]`): What may follow the word.

    Returns:
        `tuple[list[int], list[int], list[int]]`: Token ids to append to the prompt before the logits are read (mostly
        none); ids that mean Yes at the position after them; ids that mean No. Where there are several they are ways to
        write the same word: add their probabilities.

    Raises:
        ValueError: If both words are written alike.
    """
    endings = ["", *commas]
    ids = encode([word + ending for word in (yes, no) for ending in endings])
    prefix = os.path.commonprefix(ids)
    starts = [one[len(prefix)] if len(one) > len(prefix) else None for one in ids]
    yes_ids, no_ids = set(starts[: len(endings)]), set(starts[len(endings) :])
    if None in starts or yes_ids & no_ids:
        raise ValueError(
            f"`tokenizer` must write {yes!r} and {no!r} differently, got {ids[0]} and {ids[len(endings)]}. Choose "
            "another `language` or a tokenizer that knows these words."
        )
    return prefix, sorted(yes_ids), sorted(no_ids)


def stop_token_ids(encode: Encode, tokenizer: Any) -> list[int]:
    """Token ids that end an answer: the end token and the first token of each way to write the mark `###`.

    A lone `#` is left out, since an answer may hold one; `StopAtMark` sees it where it belongs to a mark.

    Args:
        encode (`Callable`): Token ids of each of a list of texts, each alone.
        tokenizer (`PreTrainedTokenizerBase`): The language model's tokenizer.

    Returns:
        `list[int]`: For `generation_config.eos_token_id`.
    """
    found = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for ids in encode([STOP_MARK, "\n" + STOP_MARK, "a.\n" + STOP_MARK, "。\n" + STOP_MARK]):
        texts = [tokenizer.decode([token]) for token in ids]
        first = next((i for i, text in enumerate(texts) if "#" in text), None)
        if first is not None and "##" in texts[first] and ids[first] not in found:
            found.append(ids[first])
    return found


class StopAtMark(StoppingCriteria):
    """Stops each row of a batch as soon as its text ends with `###`, however the tokenizer writes it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The language model's tokenizer.
        num_tokens (`int`, *optional*, defaults to 8): How many of the last tokens are looked at.
    """

    def __init__(self, tokenizer: Any, num_tokens: int = 8) -> None:
        self.tokenizer = tokenizer
        self.num_tokens = num_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Tell which rows are finished.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): What has been generated so far.
            scores (`torch.FloatTensor`): Unused.
            **kwargs: Unused.

        Returns:
            `torch.BoolTensor` of shape `(B,)`: Whether the row ends with the mark.
        """
        texts = self.tokenizer.batch_decode(input_ids[:, -self.num_tokens :], skip_special_tokens=True)
        done = [text.rstrip().endswith(STOP_MARK) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


__all__ = ["STOP_MARK", "StopAtMark", "stop_token_ids", "yes_no_token_ids"]
