"""Token ids of the state prompts: the sentences that say to the text tower what normal and anomalous mean.

Knows a tokenizer; knows no words, pictures or weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def encode_state_prompts(
    tokenizer: Any, normal: Sequence[str], anomalous: Sequence[str], length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize the prompt ensemble of one category.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of the text tower.
        normal (`list[str]`): Sentences about a good object.
        anomalous (`list[str]`): Sentences about an anomalous one.
        length (`int`, *optional*): Length to pad to, and to cut at. By default the tokenizer's longest input where
            that is at most 128 (77 of CLIP, 64 of SigLIP), else the longest prompt.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Token ids `(P, L)` and labels `(P,)`, 0 normal and 1 anomalous; int64.
    """
    longest = tokenizer.model_max_length
    length = length or (longest if longest <= 128 else None)
    ids = tokenizer(
        [*normal, *anomalous],
        padding="max_length" if length else "longest",
        max_length=length or min(longest, 512),
        truncation=True,
        padding_side="right",
        split_special_tokens=True,
    )["input_ids"]
    return np.array(ids, dtype=np.int64), np.array([0] * len(normal) + [1] * len(anomalous), dtype=np.int64)


def stack_state_prompts(
    encoded: Sequence[tuple[np.ndarray, np.ndarray]], pad_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Batch the state prompts of several pictures.

    Args:
        encoded (`list[tuple[np.ndarray, np.ndarray]]`): Ids and labels of each picture's category.
        pad_token_id (`int`): Fills shorter prompts.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: `(N, P, L)` token ids and `(N, P)` labels.
    """
    length = max(ids.shape[1] for ids, _ in encoded)
    stacked = [np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=pad_token_id) for ids, _ in encoded]
    return np.stack(stacked), np.stack([labels for _, labels in encoded])


__all__ = ["encode_state_prompts", "stack_state_prompts"]
