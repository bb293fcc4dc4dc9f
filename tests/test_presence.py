"""What must be there: what all good pictures show and a picture does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from modeling_anomalygpt import AnomalyInspector, MemoryBank
from modeling_anomalygpt.hub.export import map_path
from modeling_anomalygpt.line.parts import EMBEDDED, PartFacts, PartStore, read_part
from modeling_anomalygpt.localization import few_shot_anomaly_map, missing_scores
from modeling_anomalygpt.memory_bank import FORMATS, PatchFeatures, unit_length
from modeling_anomalygpt.references import References
from tests.tiny import tiny_pair

PEGS = ((70, 70), (186, 70), (70, 186), (186, 186))


def tray(missing: int | None = None, shade: int = 0, shift: int = 0) -> Image.Image:
    """A plate with four different pegs, or with three."""
    image = Image.new("RGB", (256, 256), (150 + shade, 150 + shade, 145 + shade))
    draw = ImageDraw.Draw(image)
    for number, (x, y) in enumerate(PEGS):
        if number != missing:
            box = (x - 22 + shift, y - 22, x + 22 + shift, y + 22)
            colour = ((190, 60, 50), (40, 70, 160), (60, 140, 60), (220, 190, 60))[number]
            (draw.ellipse if number % 2 else draw.rectangle)(box, fill=colour)
            draw.line((x - 22 + shift, y, x + 22 + shift, y), fill=(20, 20, 20), width=3 + number)
    return image


@pytest.fixture(scope="module")
def embedded(embedded_pair) -> AnomalyInspector:
    inspector = AnomalyInspector(*embedded_pair)
    inspector.set_references([tray(), tray(shade=6, shift=2), tray(shade=-5, shift=-2)], "tray", presence=True)
    return inspector


def without_presence(inspector: AnomalyInspector) -> AnomalyInspector:
    other = AnomalyInspector(inspector.model, inspector.processor)
    other.references = replace(inspector.references, bank=replace(inspector.references.bank, tolerance=None))
    return other


def near(place: int, height: int, width: int) -> list[int]:
    """A place of a grid and those around it."""
    row, column = divmod(place, width)
    rows, columns = range(max(0, row - 1), min(height, row + 2)), range(max(0, column - 1), min(width, column + 2))
    return [y * width + x for y in rows for x in columns]


def test_missing_scores_equal_loops_over_references_places_and_patches():
    torch.manual_seed(0)
    query, good = torch.randn(2, 12, 5), unit_length(torch.randn(3, 12, 5))
    tolerance = torch.rand(3, 12) / 2
    found = missing_scores(PatchFeatures(query, (3, 4)), good, tolerance)
    for picture in range(2):
        own = query[picture] / query[picture].norm(dim=1, keepdim=True)
        missing = [
            [
                max(0, 1 - max(float(one @ own[k]) for k in near(at, 3, 4)) - float(tolerance[number, at]))
                for at, one in enumerate(reference)
            ]
            for number, reference in enumerate(good)
        ]
        for place in range(12):
            expected = min(max(one[at] for at in near(place, 3, 4)) for one in missing)
            assert found[picture].flatten()[place].item() == pytest.approx(expected, abs=1e-5)


def test_tolerated_is_what_other_references_lack_near_a_place_enlarged_for_their_number():
    torch.manual_seed(0)
    bank = MemoryBank.build((PatchFeatures(torch.randn(4, 12, 5), (3, 4)),)).requiring_presence()
    patches = bank.ordered
    for own in range(4):
        for place in range(12):
            others = [other for other in range(4) if other != own]
            lacking = [1 - max(float(patches[own, place] @ patches[o, k]) for k in near(place, 3, 4)) for o in others]
            assert float(bank.tolerance[own, place]) == pytest.approx(4 / 3 * max(lacking), abs=1e-5)


def test_what_one_good_picture_does_not_show_need_not_be_there():
    plain, special = torch.eye(4)[:1].repeat(9, 1), torch.eye(4)[:1].repeat(9, 1)
    special[4] = torch.eye(4)[1]
    query = PatchFeatures(plain[None], (3, 3))

    def highest(*pictures: torch.Tensor) -> float:
        bank = MemoryBank.build((PatchFeatures(torch.stack(pictures), (3, 3)),)).requiring_presence()
        return float(missing_scores(query, *bank.required).max())

    assert highest(special, special) == 1
    assert highest(special, plain) == 0
    assert highest(special) == 0  # one tells nothing


def test_one_of_several_like_pieces_is_missing_where_it_is_missing():
    plain = torch.eye(3)[:1].repeat(25, 1)
    pieces = plain.clone()
    pieces[[6, 8, 18]] = torch.eye(3)[1]
    query = pieces.clone()
    query[18] = torch.eye(3)[0]
    bank = MemoryBank.build((PatchFeatures(torch.stack([pieces, pieces]), (5, 5)),)).requiring_presence()
    found = missing_scores(PatchFeatures(query[None], (5, 5)), *bank.required)[0].flatten()
    assert found.nonzero().flatten().tolist() == near(18, 5, 5)


def test_patches_that_are_not_in_the_bank_need_not_be_there():
    bank = MemoryBank.build((PatchFeatures(torch.eye(4)[None].repeat(2, 1, 1), (2, 2)),))
    kept = [0, 3, 4, 7]
    bank = replace(bank, features=(bank.features[0][kept],), sources=(bank.sources[0][kept],)).requiring_presence()
    torch.testing.assert_close(bank.ordered[0], torch.eye(4) * torch.tensor([[1.0], [0.0], [0.0], [1.0]]))
    both = PatchFeatures(torch.eye(4)[[0, 3, 0, 3]][None], (2, 2))
    assert missing_scores(both, *bank.required).max() == 0


def test_presence_raises_scores_and_lowers_none():
    torch.manual_seed(0)
    layers = tuple(PatchFeatures(torch.randn(2, 16, 6), (4, 4)) for _ in range(3))
    bank = MemoryBank.build(tuple(PatchFeatures(torch.randn(2, 16, 6), (4, 4)) for _ in range(3))).requiring_presence()
    without = few_shot_anomaly_map(layers, bank.features, 8)
    assert (few_shot_anomaly_map(layers, bank.features, 8, required=bank.required) >= without).all()


def plate(missing: int | None, shade: int = 0, shift: int = 0) -> Image.Image:
    """Sixteen like pegs, or fifteen."""
    image = Image.new("RGB", (256, 256), (150 + shade,) * 3)
    draw = ImageDraw.Draw(image)
    for number in (one for one in range(16) if one != missing):
        x, y = 40 + 58 * (number % 4) + shift, 40 + 58 * (number // 4)
        draw.rectangle((x - 14, y - 14, x + 14, y + 14), fill=(40, 45, 60))
    return image


def test_one_of_sixteen_like_pegs_is_seen_missing_at_its_place(embedded):
    inspector = AnomalyInspector(embedded.model, embedded.processor)
    inspector.set_references([plate(None), plate(None, 6, 2), plate(None, -5, -2)], "plate", presence=True)
    without = without_presence(inspector)
    for missing in (0, 5):
        result = inspector.inspect(plate(missing, 2, 1), answer=False)
        assert result.verdict == "anomalous"
        assert result.pred_score > without.inspect(plate(missing, 2, 1), answer=False).pred_score
        row, column = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
        assert abs(column - 40 - 58 * (missing % 4)) <= 30
        assert abs(row - 40 - 58 * (missing // 4)) <= 30
    assert inspector.inspect(plate(None, 3, 1), answer=False).verdict == "normal"


def test_a_missing_piece_stands_out_where_it_should_be(embedded):
    missing = 1
    result = embedded.inspect(tray(missing), answer=False)
    assert result.pred_score > 2 * without_presence(embedded).inspect(tray(missing), answer=False).pred_score
    row, column = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    assert np.abs(np.array(PEGS[missing]) - (column, row)).max() <= 60


def test_the_reason_says_that_something_is_missing(embedded):
    result = embedded.inspect(tray(0), answer=False)
    assert result.verdict == "anomalous"
    (reason,) = (one for one in result.evidence["reasons"] if one["kind"] == "absent")
    assert "not found in this picture" in reason["text"]
    assert result.regions[0].kind == "missing"
    assert "missing piece" in embedded.ask(result, "What kind of defect is it?")


def test_a_whole_part_is_normal_and_something_more_is_not_called_missing(embedded):
    assert embedded.inspect(tray(shade=3, shift=1), answer=False).verdict == "normal"
    more = tray(shade=3)
    ImageDraw.Draw(more).line((100, 128, 160, 134), fill=(250, 250, 250), width=7)
    result = embedded.inspect(more, answer=False)
    assert result.verdict == "anomalous"
    assert "absent" not in {reason["kind"] for reason in result.evidence["reasons"]}


def test_references_keep_it_when_saved_and_earlier_versions_refuse_the_file(embedded, tmp_path):
    embedded.references.save(tmp_path / "tray.safetensors")
    loaded = References.load(tmp_path / "tray.safetensors")
    assert loaded.bank.presence
    assert loaded.fingerprint() == embedded.references.fingerprint()
    _, metadata, _ = MemoryBank.read(tmp_path / "tray.safetensors")
    assert metadata["format"] == FORMATS[-1]  # unknown to them
    without = replace(loaded, bank=replace(loaded.bank, tolerance=None))
    assert without.fingerprint() != loaded.fingerprint()
    loaded.bank.save(tmp_path / "bank.safetensors")
    assert MemoryBank.load(tmp_path / "bank.safetensors").presence


def test_a_stored_part_keeps_it_and_has_a_format_of_its_own(embedded, tmp_path):
    store = PartStore(tmp_path)
    store.write("tray", embedded.references, PartFacts(EMBEDDED))
    facts, references = read_part(store.path("tray"))
    assert references.bank.presence
    assert facts.format == 4


@pytest.mark.parametrize(
    ("tile", "pictures", "options", "message"),
    [
        (None, 1, {"rotations": True}, "False with `rotations`, got both"),
        (None, 1, {"max_patches": 5}, "False with `max_patches`, got both"),
        (64, 1, {}, "False with `tile`, got both"),
        (None, 1, {"presence": "yes"}, "True or False, got 'yes'"),
        (None, 1, {}, "given with at least two good pictures, got 1"),
        (None, 2, {}, "given with at least two good pictures, got 1"),  # copies of one
    ],
)
def test_options_that_leave_patches_out_or_turn_them_and_a_single_picture_are_refused(
    tile, pictures, options, message
):
    inspector = AnomalyInspector(*tiny_pair(), tile=tile)
    with pytest.raises(ValueError, match=f"`presence` must be {message}"):
        inspector.set_references([tray()] * pictures, **({"presence": True} | options))
    assert inspector.references is None


def test_references_with_it_are_not_exported():
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([tray(), tray(shift=3)], presence=True)
    with pytest.raises(ValueError, match="`references` must be learned without `presence` for an export"):
        map_path(inspector)


def test_outside_the_region_of_interest_nothing_is_missing(embedded):
    roi = np.zeros((256, 256), bool)
    roi[:, :128] = True
    inspector = AnomalyInspector(embedded.model, embedded.processor)
    inspector.set_references([tray(), tray(shade=6, shift=2)], "tray", presence=True, roi=roi)
    left, right = (inspector.inspect(tray(missing), answer=False) for missing in (0, 1))
    assert left.pred_score > 1.5 * right.pred_score


def test_after_feedback_what_is_tolerated_is_the_same_when_saved_and_loaded(embedded, tmp_path):
    inspector = AnomalyInspector(embedded.model, embedded.processor)
    for number, is_normal in enumerate((False, True)):
        inspector.references = embedded.references
        inspector.feedback(inspector.inspect(tray(2), answer=False), is_normal=is_normal, image=tray(2))
        inspector.references.save(tmp_path / f"{number}.safetensors")
        loaded = References.load(tmp_path / f"{number}.safetensors")
        torch.testing.assert_close(loaded.bank.tolerance, inspector.references.bank.tolerance)


def test_a_good_picture_told_by_feedback_may_lack_a_piece(embedded):
    inspector = AnomalyInspector(embedded.model, embedded.processor)
    inspector.references = embedded.references
    before = inspector.inspect(tray(2), answer=False)
    inspector.feedback(before, is_normal=True, image=tray(2))
    assert inspector.inspect(tray(2, shade=2), answer=False).pred_score < 0.5 * before.pred_score
