"""The training mix from streams: shares, passes, processes and workers."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from modeling_anomalygpt.data.examples import Wording
from modeling_anomalygpt.training.collator import InspectionCollator
from modeling_anomalygpt.training.data import StreamedExamples, StreamedSource

from .inspection_rows import answers, conversation_rows, inspection_rows, marking
from .tiny_processor import make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def nuts(count=8, shards=4, **options):
    stream = inspection_rows(count).to_iterable_dataset(num_shards=shards)
    return StreamedSource(stream, "synthetic", "nuts", mixture=marking, **options)


def chat(**options):
    return StreamedSource(conversation_rows().to_iterable_dataset(), "conversations", "chat", **options)


def test_good_rows_become_pairs_and_conversations_come_between_by_weight(processor):
    stream = StreamedExamples([nuts(), chat(weight=0.5)], processor, wording=Wording(varied=False))
    samples = list(itertools.islice(stream, 24))
    assert Counter(sample["source"] for sample in samples) == {"nuts": 16, "chat": 8}
    pictures = [sample for sample in samples if sample["source"] == "nuts"]
    for good, bad in zip(pictures[::2], pictures[1::2], strict=True):
        assert good["image_id"] == bad["image_id"]
        assert not good["mask_labels"].any()
        assert answers(bad, processor).startswith("Yes") == bool(bad["mask_labels"].any())
    assert InspectionCollator(processor)(samples)["pixel_values"].shape[0] == 24


def test_a_stream_without_repetition_ends_with_its_rows(processor):
    samples = list(StreamedExamples([nuts()], processor, repeat=False))
    assert Counter(sample["image_id"] for sample in samples) == {f"nut/{index}": 2 for index in range(8)}


def test_repeated_passes_have_new_defects(processor):
    samples = list(itertools.islice(StreamedExamples([nuts(2, 1)], processor), 8))
    assert [sample["image_id"] for sample in samples] == ["nut/0", "nut/0", "nut/1", "nut/1"] * 2
    assert (samples[1]["mask_labels"] != samples[5]["mask_labels"]).any()


def test_the_same_stream_is_the_same_again_and_another_epoch_is_not(processor):
    def bytes_of(stream):
        return [sample["pixel_values"].tobytes() for sample in itertools.islice(stream, 12)]

    stream = StreamedExamples([nuts(), chat()], processor, seed=2)
    first = bytes_of(stream)
    assert bytes_of(stream) == first
    stream.set_epoch(1)
    assert bytes_of(stream) != first


def test_references_are_pictures_seen_before(processor):
    samples = list(StreamedExamples([nuts(8, 1)], processor, reference_share=1.0, repeat=False))
    assert [sample["use_reference"] for sample in samples] == [False] * 2 + [True] * 14


def test_processes_and_workers_share_the_rows_without_repetition(processor):
    seen = Counter()
    for rank in range(2):
        stream = StreamedExamples([nuts()], processor, num_processes=2, process_index=rank, repeat=False)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
        seen.update(sample["image_id"] for sample in loader)
    assert seen == {f"nut/{index}": 2 for index in range(8)}


def test_labelled_streams_keep_their_masks(processor):
    rows = inspection_rows(3, 2).to_iterable_dataset()
    samples = list(
        StreamedExamples([StreamedSource(rows, "supervised")], processor, reference_share=1.0, repeat=False)
    )
    assert [bool(np.any(sample["mask_labels"])) for sample in samples] == [False] * 3 + [True] * 2
    assert [sample["use_reference"] for sample in samples] == [False] + [True] * 4


def test_wrong_arguments_are_refused_by_name(processor):
    with pytest.raises(ValueError, match="`labels` must be synthetic, supervised or conversations, got 'real'"):
        StreamedSource(None, "real")
    with pytest.raises(ValueError, match="`weight` must be positive, got -1"):
        nuts(weight=-1)
    for options, text in (
        ({"sources": []}, "`sources` must hold at least one source"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"reference_share": 2}, r"`reference_share` must be in \[0, 1\], got 2"),
        ({"process_index": 1}, r"`process_index` must be in \[0, 1\), got 1. Give rank and world size"),
    ):
        with pytest.raises(ValueError, match=text):
            StreamedExamples(**({"sources": [nuts()], "processor": processor} | options))
