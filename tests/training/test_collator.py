"""Batches: padding, what stands for a missing target or reference, and the losses of a mixed batch."""

import numpy as np
import pytest
import torch

from modeling_anomalygpt.data.sources import PlainConversations, SyntheticPairs
from modeling_anomalygpt.training.collator import InspectionCollator
from modeling_anomalygpt.training.data import TrainingExamples
from tests.inspection_rows import conversation_rows, inspection_rows, marking
from tests.tiny import tiny_pair
from tests.tiny_processor import make_processor


def samples_of(processor, reference_share=0.5, count=12, map_size=None):
    sources = [SyntheticPairs(inspection_rows(6), "nuts", mixture=marking), PlainConversations(conversation_rows())]
    examples = TrainingExamples(
        sources, processor, seed=1, reference_share=reference_share, map_size=map_size, length=count
    )
    return [examples[index] for index in range(count)]


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def samples(processor):
    return samples_of(processor)


def test_texts_are_padded_on_the_right_and_nothing_of_the_padding_is_learnt(processor, samples):
    batch = InspectionCollator(processor, with_names=True)(samples)
    assert batch["state_prompt_ids"].shape[:2] == batch["state_prompt_labels"].shape
    assert batch["image_ids"] == [sample["image_id"] for sample in samples]
    longest = max(len(sample["input_ids"]) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (12, longest)
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == sample["input_ids"]
        assert batch["labels"][row, :length].tolist() == sample["labels"]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
        assert (batch["labels"][row, length:] == -100).all()


def test_missing_targets_are_minus_one_and_missing_references_zeros_that_are_not_used(processor, samples):
    batch = InspectionCollator(processor)(samples)
    assert "image_ids" not in batch
    assert (batch["mask_labels"].dtype, batch["reference_pixel_values"].shape) == (torch.int64, (12, 1, 3, 28, 28))
    assert batch["use_reference"].tolist() == [sample["use_reference"] for sample in samples]
    assert 0 < batch["use_reference"].sum() < 12
    for row, sample in enumerate(samples):
        target, reference = sample["mask_labels"], sample["reference_pixel_values"]
        assert (target is None) == (sample["source"] == "conversations")
        target = np.full((28, 28), -1) if target is None else target
        reference = np.zeros((1, 3, 28, 28)) if reference is None else reference
        np.testing.assert_array_equal(batch["mask_labels"][row], target)
        np.testing.assert_array_equal(batch["reference_pixel_values"][row], reference)


def test_a_batch_without_any_reference_has_none(processor):
    samples = samples_of(processor, reference_share=0.0, count=4)
    assert "reference_pixel_values" not in InspectionCollator(processor)(samples)


def test_one_mixed_batch_costs_what_its_samples_cost_alone_and_has_the_maps_that_they_ask_for():
    model, processor = tiny_pair()
    collate = InspectionCollator(processor)
    samples = samples_of(processor, count=12)
    batch = collate(samples)
    with torch.no_grad():
        together = model(**batch)
        text = model.get_image_features(batch["pixel_values"]).anomaly_map
        shot = model.get_image_features(
            batch["pixel_values"], reference_pixel_values=batch["reference_pixel_values"]
        ).anomaly_map
        alone = [model(**collate([sample])) for sample in samples]
    words = torch.tensor([sum(label != -100 for label in sample["labels"]) for sample in samples])
    lm = torch.stack([one.loss_lm for one in alone])
    torch.testing.assert_close(together.loss_lm, (lm * words).sum() / words.sum(), rtol=1e-4, atol=1e-5)
    for name in ("loss_focal", "loss_dice"):
        pictures = [one[name] for one, sample in zip(alone, samples, strict=True) if sample["mask_labels"] is not None]
        assert len(pictures) == 6
        torch.testing.assert_close(together[name], torch.stack(pictures).mean(), rtol=1e-4, atol=1e-5)
    for row, sample in enumerate(samples):
        expected = shot[row] if sample["use_reference"] else text[row]
        torch.testing.assert_close(together.anomaly_map[row], expected)


def test_what_does_not_fit_is_refused(processor, samples):
    with pytest.raises(ValueError, match="`samples` must hold at least one sample"):
        InspectionCollator(processor)([])
    one = next(sample for sample in samples if sample["use_reference"])
    two = one | {"reference_pixel_values": np.repeat(one["reference_pixel_values"], 2, 0)}
    with pytest.raises(ValueError, match=r"the same number of pictures in all samples, got \[1, 2\]"):
        InspectionCollator(processor)([one, two])
    with pytest.raises(ValueError, match=r"`mask_labels` must be of one size in all samples, got \[14, 28\]"):
        InspectionCollator(processor)([samples[0], samples_of(processor, count=4, map_size=14)[0]])
