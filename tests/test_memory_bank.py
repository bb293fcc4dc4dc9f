"""The bank of good patches: exact in chunks, reduced well, saved and refused by name."""

import pytest
import torch
from safetensors.torch import save_file

from modeling_anomalygpt import memory_bank
from modeling_anomalygpt.memory_bank import (
    MemoryBank,
    PatchFeatures,
    best_matches,
    k_centre_indices,
    normalised_map,
    unit_length,
)


def bank_of(num_references=2, fingerprint="encoder", seed=0) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    layers = (
        PatchFeatures(torch.randn(num_references, 12, 5, generator=generator), (3, 4)),
        PatchFeatures(torch.randn(num_references, 2, 6, generator=generator), (1, 2)),
    )
    return MemoryBank.build(layers, fingerprint)


def test_matching_in_chunks_is_exact(monkeypatch):
    query, bank = unit_length(torch.randn(11, 5)), unit_length(torch.randn(50, 5))
    whole = (query @ bank.T).max(dim=1)
    monkeypatch.setattr(memory_bank, "_SIMILARITIES_PER_CHUNK", 40)
    best, row = best_matches(query, bank)
    torch.testing.assert_close(best, whole.values)
    assert row.tolist() == whole.indices.tolist()


def test_sources_name_reference_and_patch():
    bank = bank_of(num_references=3)
    assert bank.sources[0].tolist() == list(range(36))
    assert bank.features[0].shape == (36, 5)
    torch.testing.assert_close(bank.features[1].norm(dim=1), torch.ones(6))


def test_a_bank_extended_by_another_equals_one_built_of_all():
    layers = (PatchFeatures(torch.randn(3, 4, 5), (2, 2)),)
    whole = MemoryBank.build(layers, "e")
    for size in (2, 1):
        first, *others = (
            MemoryBank.build((PatchFeatures(vectors, (2, 2)),), "e") for vectors in layers[0].vectors.split(size)
        )
        parts = first.extend(*others)
        torch.testing.assert_close(parts.features[0], whole.features[0])
        assert parts.sources[0].tolist() == whole.sources[0].tolist()
        assert parts.num_references == 3


def naive_k_centre(rows: torch.Tensor, count: int) -> list[int]:
    picked = [int((rows @ unit_length(rows.mean(0))).argmin())]
    while len(picked) < count:
        nearest = [max(float(row @ rows[index]) for index in picked) for row in rows]
        picked.append(min(range(len(rows)), key=nearest.__getitem__))
    return picked


def test_greedy_selection_equals_a_naive_loop():
    rows = unit_length(torch.randn(40, 6))
    assert k_centre_indices(rows, 12).tolist() == naive_k_centre(rows, 12)


def test_reduction_keeps_features_and_sources_together():
    bank = bank_of()
    reduced = bank.reduce(5)
    assert [len(layer) for layer in reduced.features] == [5, 4]
    torch.testing.assert_close(reduced.features[0], bank.features[0][reduced.sources[0]])
    with pytest.raises(ValueError, match="`num_patches` must be at least 1, got 0"):
        bank.reduce(0)


def test_a_normalised_map_learns_at_zero_and_stays_a_number_far_above_the_threshold():
    anomaly_map = torch.tensor([0.0, 0.1, 0.4], requires_grad=True)
    for contrast in (0.1, 0.5, 1.0, 3.0):
        found = normalised_map(anomaly_map, threshold=0.1, contrast=contrast)
        assert found[:2].tolist() == [0.0, 0.5]
        (slope,) = torch.autograd.grad(found.sum(), anomaly_map)
        assert slope.isfinite().all()
        assert slope[2] > 0
        torch.testing.assert_close(found.detach(), normalised_map(anomaly_map.detach(), 0.1, contrast))
    assert normalised_map(torch.tensor([1.0]), threshold=1e-6, contrast=10.0).item() == 1.0


def test_files_that_are_no_bank_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("not a bank")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    for name in ("text.safetensors", "weights.safetensors"):
        with pytest.raises(ValueError, match="`path` must be a memory bank, got"):
            MemoryBank.load(tmp_path / name)
