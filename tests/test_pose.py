"""The pose of a part: found, followed, its map brought back; refused where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.encoder import PoseError
from modeling_anomalygpt.pose import LEAST_CORRELATION, Pose, find_pose, view
from modeling_anomalygpt.references import References
from tests.tiny import tiny_pair

pytestmark = pytest.mark.usefixtures("short_answers")

SIZE = (240, 200)  # width, height
MIDDLE = np.array([(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2])


def part(light: float = 1.0) -> Image.Image:
    """A part that looks the same in no two poses."""
    image = Image.new("RGB", SIZE, tuple(round(light * value) for value in (60, 70, 60)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((70, 60, 170, 140), fill=tuple(round(light * value) for value in (170, 160, 150)))
    draw.rectangle((70, 60, 100, 85), fill=tuple(round(light * value) for value in (230, 220, 90)))
    draw.ellipse((135, 105, 160, 130), fill=tuple(round(light * value) for value in (20, 20, 40)))
    draw.line((105, 120, 125, 70), fill=tuple(round(light * value) for value in (90, 40, 40)), width=5)
    return image


def moved(image: Image.Image, degrees: float, shift: tuple[int, int] = (0, 0)) -> Image.Image:
    """Rotated counter-clockwise about the middle, then shifted right and down, on its own ground."""
    ground = image.getpixel((0, 0))
    return image.rotate(degrees, Image.Resampling.BICUBIC, translate=shift, fillcolor=ground)


def where(point: tuple[float, float], degrees: float, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Where a point of the part lies after [`moved`], worked out by hand."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # y points down
    return turn @ (np.array(point) - MIDDLE) + MIDDLE + shift


@pytest.mark.parametrize(
    ("degrees", "shift", "light"),
    [(33, (0, 0), 1.0), (90, (12, -8), 0.6), (171, (0, 0), 1.0), (247, (-10, 9), 0.6), (352, (6, 0), 1.0)]
    + [(0, (15, -12), 0.6)],
)
def test_a_moved_part_is_brought_back_to_within_a_pixel_or_two_in_any_light(degrees, shift, light):
    pose, correlation = find_pose(moved(part(light), degrees, shift), [view(part())], SIZE[::-1])
    assert correlation > 0.95
    assert abs((pose.degrees - degrees + 180) % 360 - 180) <= 1
    for point in [(85, 72), (147, 117), (170, 60)]:
        x, y = where(point, degrees, shift)
        assert np.abs(np.array(pose.aligned_point(x, y)) - point).max() <= 2
    difference = np.abs(np.float32(pose.aligned(moved(part(), degrees, shift))) - np.float32(part()))[50:150, 60:180]
    assert difference.mean() < 8


def test_a_part_that_lies_as_the_good_ones_stays_as_it_is():
    pose, correlation = find_pose(part(), [view(part())], SIZE[::-1])
    assert pose is None
    assert correlation > 0.99


def test_the_nearest_of_several_good_views_gives_the_pose():
    other = part().transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # no rotation makes it the same
    pose, correlation = find_pose(moved(other, 40), [view(part()), view(other)], SIZE[::-1])
    assert correlation > 0.95
    assert pose.degrees in (39, 40, 41)


def test_noise_has_no_pose():
    noise = [np.random.default_rng(seed).integers(0, 256, (200, 240, 3), dtype=np.uint8) for seed in (0, 1)]
    pose, correlation = find_pose(Image.fromarray(noise[0]), [view(Image.fromarray(noise[1]))], SIZE[::-1])
    assert pose is None
    assert correlation < LEAST_CORRELATION


def test_a_map_comes_back_to_where_the_part_lies_and_is_zero_where_nothing_was_compared():
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = Pose(np.column_stack([turn, MIDDLE - turn @ MIDDLE]), SIZE[::-1], SIZE[::-1])
    aligned = np.full(SIZE[::-1], 0.25, np.float32)
    aligned[70:75, 80:85] = 1.0
    restored = pose.restored(aligned * pose.compared())
    y, x = np.unravel_index(restored.argmax(), restored.shape)
    assert np.hypot(*(np.array(pose.aligned_point(x, y)) - (82, 72))) < 4
    assert restored.max() == pytest.approx(1.0, abs=0.05)
    assert restored[0, 0] == restored[-1, -1] == restored[0, -1] == 0  # rotated out of the frame
    assert restored[100, 120] == pytest.approx(0.25)
    mask = np.zeros(SIZE[::-1], bool)
    mask[y - 2 : y + 3, x - 2 : x + 3] = True
    rows, columns = np.nonzero(pose.aligned_mask(mask))
    assert np.hypot(columns.mean() - 82, rows.mean() - 72) < 4


# With a model


@pytest.fixture(scope="module")
def inspector() -> AnomalyInspector:
    return AnomalyInspector(*tiny_pair())


def spoiled(image: Image.Image, at: tuple[int, int]) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).ellipse((at[0] - 9, at[1] - 9, at[0] + 9, at[1] + 9), fill=(255, 0, 255))
    return image


@pytest.fixture
def aligned(inspector) -> AnomalyInspector:
    inspector.set_references([part(), moved(part(0.97), 140)], "plate", align=True)
    return inspector


def test_a_rotated_good_part_differs_less_when_its_pose_is_followed(inspector):
    query = moved(part(), 73)
    scores = {}
    for align in (False, True):
        inspector.set_references([part()], "plate", align=align)
        result = inspector.inspect(query)
        scores[align] = result.anomaly_map.max()
    assert scores[True] < 0.6 * scores[False]
    (reason,) = (one for one in result.evidence["reasons"] if one["kind"] == "aligned")
    assert "73 degrees" in reason["text"]


def test_a_defect_is_marked_where_it_lies_in_the_picture_itself(aligned):
    upright = aligned.inspect(spoiled(part(), (120, 70))).anomaly_map
    y, x = np.unravel_index(upright.argmax(), upright.shape)
    result = aligned.inspect(spoiled(moved(part(), 73), tuple(np.int64(where((120, 70), 73)))))
    assert result.anomaly_map.shape == SIZE[::-1]
    row, column = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    assert np.hypot(*(where((x, y), 73) - (column, row))) < 12
    assert result.anomaly_map.max() == pytest.approx(upright.max(), rel=0.15)


def test_the_region_of_interest_follows_the_part(inspector):
    roi = np.zeros(SIZE[::-1], bool)
    roi[55:145, 65:120] = True  # the left half of the part
    inspector.set_references([part()], "plate", align=True, roi=roi)
    upright = {}
    for name, point in {"left": (85, 120), "right": (150, 80)}.items():
        upright[name] = inspector.inspect(spoiled(part(), point)).anomaly_map.max()
        lying = spoiled(moved(part(), 200), tuple(np.int64(where(point, 200))))
        found = inspector.inspect(lying).anomaly_map
        y, x = np.unravel_index(found.argmax(), found.shape)
        upright[f"{name} rotated"] = found.max()
        if name == "left":
            assert np.hypot(*(np.array([x, y]) - where(point, 200))) < 25
    assert upright["left rotated"] > 1.5 * upright["right rotated"]
    assert upright["left"] > 1.5 * upright["right"]


def test_references_keep_the_pose_when_saved_and_change_their_fingerprint(aligned, tmp_path):
    aligned.references.save(tmp_path / "plate.safetensors")
    loaded = References.load(tmp_path / "plate.safetensors")
    assert np.array_equal(loaded.views, aligned.references.views)
    assert loaded.fingerprint() == aligned.references.fingerprint()
    assert loaded.fingerprint() != replace(loaded, views=None).fingerprint()
    again = AnomalyInspector(aligned.model, aligned.processor)
    again.load_references(tmp_path / "plate.safetensors")
    query = moved(part(), 73)
    assert np.array_equal(again.inspect(query).anomaly_map, aligned.inspect(query).anomaly_map)


@pytest.mark.parametrize("shape", [(5, 160, 160), (1, 300, 160), (0, 160, 160), (1, 160, 4)])
def test_views_that_cannot_be_are_refused(aligned, tmp_path, shape):
    replace(aligned.references, views=np.zeros(shape, np.uint8)).save(tmp_path / "plate.safetensors")
    with pytest.raises(ValueError, match="must hold references that an inspector wrote"):
        References.load(tmp_path / "plate.safetensors")


def test_what_is_no_rigid_part_is_refused_and_a_strange_picture_is_uncertain(inspector, aligned):
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (200, 240, 3), dtype=np.uint8))
    assert "unlike" in {one["kind"] for one in aligned.inspect(noise).evidence["reasons"]}
    before = inspector.references
    with pytest.raises(
        PoseError, match="got a picture of 240 x 200 pixels, whose pose|`align` must be given with good"
    ):
        inspector.set_references([part(), noise], align=True)
    with pytest.raises(ValueError, match="`align` must be False with `rotations`"):
        inspector.set_references([part()], align=True, rotations=True)
    with pytest.raises(ValueError, match="`align` must be True or False, got 'no'"):
        inspector.set_references([part()], align="no")
    assert inspector.references is before


def test_a_good_part_told_by_feedback_joins_in_the_pose_of_the_others(aligned):
    query, before = moved(part(), 73), aligned.references.bank.num_references
    aligned.feedback(aligned.inspect(query), is_normal=True)
    assert aligned.references.bank.num_references == before + 1
    assert aligned.inspect(moved(part(), 74)).pred_score < 1.5 * aligned.inspect(moved(part(), 140)).pred_score
    aligned.undo_feedback()


def test_a_picture_turned_with_its_frame_is_followed():
    lying = part().transpose(Image.Transpose.ROTATE_90)
    pose, correlation = find_pose(lying, [view(part())], SIZE[::-1])
    assert correlation > 0.95
    assert (pose.degrees, pose.size, pose.aligned_size) == (90, SIZE, SIZE[::-1])
    assert np.abs(np.float32(pose.aligned(lying)) - np.float32(part()))[50:150, 60:180].mean() < 8
    assert pose.compared_share() > 0.9


@pytest.mark.parametrize("size", [(4000, 150), (150, 4000), (3, 200)])
def test_a_picture_too_narrow_to_have_a_pose_has_none(inspector, size):
    narrow = part().resize(size)
    assert find_pose(narrow, [view(part())], SIZE[::-1]) == (None, 0.0)
    with pytest.raises(PoseError, match="got a picture of .* which shows none|got the Image, which shows none"):
        inspector.set_references([narrow], align=True)


def test_what_a_moved_picture_does_not_show_is_not_compared_and_the_result_says_how_much_is(inspector):
    inspector.set_references([part(), moved(part(), 45)], align=True)
    result = inspector.inspect(moved(part(), 45))
    pose = result.evidence["pose"]
    assert pose["degrees"] in (44, 45, 46)
    assert 0.5 < pose["compared"] < 0.95
    assert result.anomaly_map[0, 0] == 0


def test_a_shift_alone_is_not_called_a_rotation_and_a_rotation_is_told_to_the_language_model(aligned):
    shifted = aligned.inspect(moved(part(), 0, (15, -12)))
    assert [one["kind"] for one in shifted.evidence["reasons"] if "pose" in one["kind"] or one["kind"] == "shifted"]
    assert shifted.facts.condition == "fine"
    rotated = aligned.inspect(moved(part(), 73))
    assert rotated.facts.condition == "rotated"


def test_by_words_alone_no_pose_is_followed(aligned):
    result = aligned.inspect(moved(part(), 73), localization="text")
    assert not {"aligned", "shifted", "unlike"} & {one["kind"] for one in result.evidence["reasons"]}
