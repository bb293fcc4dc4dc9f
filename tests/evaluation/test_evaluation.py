"""The evaluation loop with a detector made by hand: every number against scikit-learn, every picture once."""

import re

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from modeling_anomalygpt.conversations.word_metrics import WordMetrics
from modeling_anomalygpt.evaluation.detectors import AnomalyGPTDetector, Detection
from modeling_anomalygpt.evaluation.evaluate import EvaluationError, EvaluationPlan, evaluate
from modeling_anomalygpt.evaluation.protocols import Protocol
from modeling_anomalygpt.evaluation.tables import EvaluationRows, read_rows
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import tiny_pair

SIDE = 24


def made_set(count=10, categories=("nut", "bolt"), split="test", masks=True, seed=0):
    """Noise; every second test picture has a somewhat brighter square."""
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in ("image", "mask", "label", "category", "image_id")}
    for category in categories:
        for number in range(count):
            picture = rng.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8)
            mask, label = np.zeros((SIDE, SIDE), np.uint8), int(split == "test" and number % 2)
            if label:
                row, column = rng.integers(0, SIDE - 6, 2)
                picture[row : row + 6, column : column + 6] += 20
                mask[row : row + 6, column : column + 6] = 255
            rows["image"].append(Image.fromarray(picture))
            rows["mask"].append(Image.fromarray(mask) if masks else None)
            rows["label"].append(label)
            rows["category"].append(category)
            rows["image_id"].append(f"{category}/{split}/{number}")
    features = datasets.Features(
        {
            "image": datasets.Image(), "mask": datasets.Image(), "label": datasets.Value("int64"),
            "category": datasets.Value("string"), "image_id": datasets.Value("string"),
        }
    )  # fmt: skip
    return datasets.Dataset.from_dict(rows, features=features)


class Brightness:
    """Calls bright what is above the mean of the references."""

    name, shots = "brightness", (0, "some", "all")

    def __init__(self):
        self.pictures, self.learned = 0, []

    def learn(self, references, category, description):
        references = list(references)
        self.learned.append((len(references), category))
        self.level = np.mean([np.asarray(one).mean() for one in references]) if references else 120.0

    def detect(self, pictures):
        for picture in pictures:
            self.pictures += 1
            found = np.asarray(picture).mean(2) - self.level
            peak = float(np.sort(found, axis=None)[-9:].mean())
            verdict = "anomalous" if peak > 32 else "uncertain" if peak > 30 else "normal"
            answer = "Yes, at the top left." if peak > 31 else "No."
            yield Detection(peak, found.astype(np.float32), verdict, peak - 31, answer, peak / 31, peak - 31)


def plan(k_shots=(1,), seeds=(0,), protocol="ours", **options):
    return EvaluationPlan(Protocol(protocol, "made", (SIDE, SIDE)), k_shots, seeds, **options)


def measured(folder, given, detector, test, train):
    return evaluate(given, [detector], test, train, EvaluationRows(folder / "t.csv"))


def test_every_metric_of_a_row_is_that_of_scikit_learn(tmp_path):
    test, train = made_set(), made_set(4, split="train", seed=1)
    detector = Brightness()
    rows = measured(tmp_path, plan((2,)), detector, test, train)
    assert [(row["category"], row["k_shot"], row["seed"]) for row in rows] == [("bolt", "2", "0"), ("nut", "2", "0")]
    assert detector.pictures == len(test)
    for row in rows:
        own = [one for one in test if one["category"] == row["category"]]
        references = row["references"].split(";")
        detector.learn([one["image"] for one in train if one["image_id"] in references], "", "")
        found = list(detector.detect([one["image"] for one in own]))
        labels, scores = [one["label"] for one in own], [one.score for one in found]
        assert float(row["image_auroc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
        assert float(row["image_average_precision"]) == pytest.approx(
            average_precision_score(labels, scores), abs=1e-5
        )
        truth = np.concatenate([np.asarray(one["mask"]).ravel() > 0 for one in own])
        maps = np.concatenate([one.anomaly_map.ravel() for one in found])
        assert float(row["pixel_auroc"]) == pytest.approx(roc_auc_score(truth, maps), abs=1e-5)
        alarms = np.array([one.verdict == "anomalous" for one in found])
        good = np.array(labels) == 0
        assert float(row["false_alarm_rate"]) == pytest.approx(alarms[good].mean(), abs=1e-5)
        above = np.array(scores) >= 31
        balanced = (above[~good].mean() + (~above[good]).mean()) / 2
        assert float(row["balanced_accuracy_map"]) == pytest.approx(balanced, abs=1e-5)
        assert float(row["balanced_accuracy_forced"]) == pytest.approx(balanced, abs=1e-5)
        assert (row["num_pictures"], row["num_anomalous"], row["num_masks"]) == ("10", "5", "10")
        words = WordMetrics()
        words.update([np.asarray(one["mask"]) for one in own], [one.answer for one in found])
        assert {name: float(row[name]) for name in words.compute()} == pytest.approx(words.compute(), abs=1e-5)


def test_rows_that_are_there_are_not_measured_again(tmp_path):
    test, train = made_set(categories=("nut",)), made_set(4, ("nut",), "train")
    first, second = Brightness(), Brightness()
    before = measured(tmp_path, plan((1,)), first, test, train)
    rows = measured(tmp_path, plan((1, 2), (0, 1)), second, test, train)
    assert first.pictures == 10
    assert second.pictures == 30
    assert rows[0] == before[0]
    assert [(row["k_shot"], row["seed"]) for row in rows] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    changed = test.select([*range(9)])
    measured(tmp_path, plan((1,)), second, changed, train)
    assert second.pictures == 39


def test_a_row_of_other_references_is_measured_anew_and_replaces_the_old_one(tmp_path):
    test, train, other = made_set(categories=("nut",)), *(made_set(4, ("nut",), "train", seed=seed) for seed in (1, 2))
    detector = Brightness()
    (old,) = measured(tmp_path, plan((2,)), detector, test, train)
    (new,) = measured(tmp_path, plan((2,)), detector, test, other)
    assert old["references"] == new["references"], "the names of the pictures are the same"
    assert (detector.pictures, read_rows(tmp_path / "t.csv")) == (20, [new])
    (kept,) = measured(tmp_path, plan((2,)), detector, test, other)
    assert (detector.pictures, kept) == (20, new)


def test_a_method_with_weights_of_its_own_names_them_instead_of_the_checkpoint(tmp_path):
    test, train = made_set(categories=("nut",)), made_set(4, ("nut",), "train")
    own = Brightness()
    own.facts = {"checkpoint_hash": "b", "checkpoint": "eyes"}
    for checkpoint in ("a", "c"):
        given = plan((1,), facts={"checkpoint_hash": checkpoint, "checkpoint": "model", "commit": "1"})
        (row,) = measured(tmp_path, given, own, test, train)
        assert (row["checkpoint"], row["checkpoint_hash"], row["commit"]) == ("eyes", "b", "1")
        assert own.pictures == 10


def test_nothing_is_drawn_for_none_and_for_all_references(tmp_path):
    test, train = made_set(categories=("nut",)), made_set(4, ("nut",), "train")
    detector = Brightness()
    rows = measured(tmp_path, plan((0, "all"), (0, 1)), detector, test, train)
    assert [(row["k_shot"], row["seed"], row["references_from"]) for row in rows] == [
        ("0", "", ""), ("all", "", "train"),
    ]  # fmt: skip
    assert detector.learned == [(0, "nut"), (4, "nut")]


def test_references_from_the_test_split_are_not_measured_on(tmp_path):
    test = made_set(categories=("nut",))
    given = plan((2,), references_from="test")
    (row,) = measured(tmp_path, given, Brightness(), test, None)
    assert (row["num_pictures"], row["num_anomalous"]) == ("8", "5")
    assert len(row["references"].split(";")) == 2


@pytest.mark.parametrize(("k_shot", "limit"), [("all", None), (5, None), (4, 2)])
def test_where_all_good_pictures_would_be_references_it_is_said_before_anything_is_measured(tmp_path, k_shot, limit):
    test, detector = made_set(categories=("nut",)), Brightness()
    given = plan((1, k_shot), (0, 1, 2), references_from="test", limit=limit)
    with pytest.raises(EvaluationError, match="'nut' must have good test pictures that are no references, got none"):
        measured(tmp_path, given, detector, test, None)
    assert detector.pictures == 0


def test_a_limit_takes_half_of_each_class_and_without_masks_there_are_no_pixel_metrics(tmp_path):
    test, train = made_set(20, masks=False), made_set(4, split="train")
    given = plan((1,), limit=6)
    rows = measured(tmp_path, given, Brightness(), test, train)
    assert [(row["num_pictures"], row["num_anomalous"]) for row in rows] == [("6", "3")] * 2
    assert rows[0]["pixel_auroc"] == ""
    assert rows[0]["image_auroc"] != ""


def test_the_published_protocol_measures_on_the_models_canvas(tmp_path):
    test, train = made_set(categories=("nut",)), made_set(4, ("nut",), "train")
    sizes = set()

    class Sizes(Brightness):
        def detect(self, pictures):
            for picture, found in zip(kept := list(pictures), super().detect(kept), strict=True):
                sizes.add(picture.size)
                yield found

    given = EvaluationPlan(Protocol("paper", "made", (12, 12)), (1,), (0,))
    (row,) = measured(tmp_path, given, Sizes(), test, train)
    assert sizes == {(12, 12)}
    assert row["references"] == "nut/train/0"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "'nut' must have good and anomalous test pictures, got 10 and 0"),
        ("test", "'nut': `--k-shot` must be at most 2"),
    ],
)
def test_one_class_and_too_few_references_are_refused_before_anything_is_measured(tmp_path, split, message):
    test, train, detector = made_set(categories=("nut",), split=split), made_set(2, ("nut",), "train"), Brightness()
    with pytest.raises(EvaluationError, match=re.escape(message)):
        measured(tmp_path, plan((1, 4)), detector, test, train)
    assert detector.pictures == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_shots": (-1,)}, "`--k-shot` must be numbers of at least 0 or 'all', got -1"),
        ({"seeds": (-1,)}, "`--seeds` must be at least 0, got -1"),
        ({"seeds": ()}, "`--k-shot` and `--seeds` must each hold a number, got none"),
        ({"limit": 1}, "`--limit` must be at least 2, one picture of each kind, got 1"),
        ({"references_from": "val"}, "`--references-from` must be train or test, got 'val'"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**options)


def detector(config=None, **options):
    model, processor = tiny_pair(**(config or {}))
    return AnomalyGPTDetector(AnomalyInspector(model, processor), published=False, **options)


def test_a_checkpoint_that_gives_no_verdict_without_references_is_measured_by_its_map(tmp_path):
    given = EvaluationPlan(Protocol("ours", "anomaly_folder", (28, 28)), [0], [0])
    grounded = detector({"answering": "grounded", "decision": {"needs_references": True}})
    (row,) = measured(tmp_path, given, grounded, made_set(4, ("nut",)), None)
    assert 0 <= float(row["image_auroc"]) <= 1
    assert (row["balanced_accuracy"], row["accuracy_paper"]) == ("", "")


NOISE = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), dtype=np.uint8)) for seed in (0, 1)]


def test_where_good_pictures_have_no_common_pose_the_aligned_method_compares_them_as_they_lie():
    aligned = detector(align=True)
    assert aligned.name == "anomalygpt_aligned"
    aligned.learn(NOISE[:1], "noise", "Noise.")
    assert aligned.inspector.references.views is not None
    with pytest.warns(UserWarning, match="noise: compared as the parts lie, not aligned"):
        aligned.learn(NOISE, "noise", "Noise.")
    assert aligned.inspector.references.views is None
    assert aligned.inspector.num_references == 2


def test_from_one_good_picture_the_presence_method_compares_without_and_says_so():
    presence = detector(presence=True)
    with pytest.warns(UserWarning, match="noise: one good picture does not tell what must be there"):
        presence.learn(NOISE[:1], "noise", "Noise.")
    assert not presence.inspector.references.bank.presence
    presence.learn(NOISE, "noise", "Noise.")
    assert presence.inspector.references.bank.presence
