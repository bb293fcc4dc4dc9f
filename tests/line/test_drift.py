"""Drift is seen where there is one, is not made up where there is none, and changes no verdict."""

import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from modeling_anomalygpt import cli
from modeling_anomalygpt.line.drift import (
    Drift,
    charts,
    compare,
    drift_of,
    population_stability,
    stability_limit,
    traits_of,
)
from modeling_anomalygpt.results import InspectionResult


def row(number, exposure=1.0, score=0.5, verdict="normal", part="bolt", distance=0.4):
    traits = {"distance": distance, "exposure": exposure, "sharpness": 2.0}
    evidence = {"threshold": 0.3, "part": part, "traits": traits}
    time = f"2026-03-29T06:{number // 60:02}:{number % 60:02}+02:00"
    return InspectionResult(f"/line/{number}.png", verdict, score, evidence=evidence, time=time)


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(one.to_dict()) + "\n" for one in rows))
    return folder


def line_of(number, seed=0, light=lambda number: 1.0):
    noise = np.random.default_rng(seed).normal(0, 0.03, number)
    return [row(index, light(index) + noise[index], 0.5 + noise[index]) for index in range(number)]


def naive_stability(first, last):
    ordered, total = sorted(first), 0.0
    edges = [-math.inf, *(float(np.percentile(ordered, share)) for share in (20, 40, 60, 80)), math.inf]
    for low, high in zip(edges, edges[1:], strict=False):
        p, q = ((sum(low < value <= high for value in values) + 0.5) / (len(values) + 2.5) for values in (first, last))
        total += (q - p) * math.log(q / p)
    return total


def test_the_index_is_that_of_a_naive_count():
    rng = np.random.default_rng(0)
    for number, shift in ((30, 0.0), (100, 0.5), (200, 3.0)):
        first, last = rng.normal(0, 1, number), rng.normal(shift, 1, number + 7)
        assert population_stability(first, last) == pytest.approx(naive_stability(first, last))
    assert population_stability([1.0] * 50, [1.0] * 50) == 0


def test_the_shift_of_the_mean_is_in_standard_deviations_of_the_first_pictures():
    found = compare("bolt", "score", [1.0, 2.0, 3.0, 4.0, 5.0], [4.0, 6.0])
    assert (found.first, found.last) == (3.0, 5.0)
    assert found.shift == pytest.approx(2 / math.sqrt(2.5))


def test_chance_passes_the_limit_about_once_in_a_thousand_times():
    rng = np.random.default_rng(1)
    first, last = rng.normal(size=(2, 4000, 100))
    above = sum(population_stability(*pair) > stability_limit(100, 100) for pair in zip(first, last, strict=True))
    assert above <= 14, "more than the 99.9 % quantile of a binomial with 4 expected"
    assert stability_limit(10_000, 10_000) == 0.25
    assert stability_limit(40, 60) == pytest.approx((1 / 40 + 1 / 60) * stats.chi2.ppf(0.999, 4), rel=1e-4)


def test_light_counts_for_every_comparable_picture_but_scores_for_good_ones_alone():
    assert traits_of(row(0), "normal").keys() == {"score", "distance", "exposure", "sharpness"}
    assert traits_of(row(0), "anomalous").keys() == {"exposure", "sharpness"}
    assert traits_of(InspectionResult("x", "error", error="no picture"), "error") == {}
    damaged = row(0, exposure=math.nan)
    damaged.evidence["traits"]["sharpness"] = "sharp"
    assert traits_of(damaged, "normal").keys() == {"score", "distance"}


def test_a_change_too_small_to_matter_is_none_however_sure_it_is():
    steady, moved = [1.0 + 1e-4 * index for index in range(100)], [1.04 + 1e-4 * index for index in range(100)]
    found = compare(None, "exposure", steady, moved)
    assert found.stability > found.limit
    assert not found.drifted
    assert compare(None, "exposure", steady, [value + 0.02 for value in moved]).drifted


def test_a_drift_is_said_once_and_its_end_once():
    drift, said = Drift(window=50), []
    for one in line_of(400, light=lambda index: 0.85 if 150 <= index < 250 else 1.0):
        drift.add(one)
        said += [line for line in drift.warnings() if "exposure" in line]
    assert [line.split()[0] for line in said] == ["Drift:", "No"]
    assert "the exposure of 'bolt' is" in said[0]


def test_a_steady_line_has_no_drift_and_parts_are_told_apart(tmp_path):
    rows = line_of(300)
    for index, one in enumerate(rows):
        one.evidence["part"] = ("bolt", "nut")[index % 2]
        one.evidence["traits"]["exposure"] *= (1.0, 0.7)[index % 2]
    drift, _ = drift_of(write(tmp_path / "shift", rows))
    assert {one.part for one in drift.comparisons()} == {"bolt", "nut"}
    assert not any(one.drifted for one in drift.comparisons())


def test_the_command_prints_what_has_changed_and_draws_it(tmp_path, capsys):
    shift = write(tmp_path / "<shift>", line_of(300, light=lambda index: 1 - 0.2 * max(0, index - 100) / 200))
    before = (shift / "results.jsonl").read_bytes()
    assert cli.main(["drift", str(shift)]) == 0
    out = capsys.readouterr().out
    table = {line.split()[1]: line.split() for line in out.splitlines() if line.startswith("bolt")}
    assert [name for name, cells in table.items() if "DRIFT" in cells] == ["exposure"]
    assert "Drift: the exposure of 'bolt' is" in out
    page = (shift / "drift.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert page.count("class=drifted") == 1
    assert "&lt;shift&gt;" in page
    assert not re.search(r"<script|https?://", page)
    assert (shift / "results.jsonl").read_bytes() == before
    assert cli.main(["drift", str(shift), "--language", "zh", "--output", str(tmp_path / "zh.html")]) == 0
    assert "曝光（1 为良品图片的光照）" in (tmp_path / "zh.html").read_text(encoding="utf-8")


def test_what_a_person_said_decides_whether_a_picture_is_a_good_one(tmp_path):
    rows = [row(index, score=9.0 if index == 5 else 0.5, verdict="normal") for index in range(200)]
    shift = write(tmp_path / "shift", rows)
    (shift / "feedback.jsonl").write_text('{"row": 6, "image": "/line/5.png", "said": "anomalous"}\n')
    _, courses = drift_of(shift)
    assert len(courses["bolt", "score"]) == 199
    assert max(courses["bolt", "score"]) == 0.5


def test_a_later_shift_is_compared_with_the_first_one(tmp_path, capsys):
    first = write(tmp_path / "first", line_of(60))  # shorter than the window, and not filled up with the later ones
    later = write(tmp_path / "later", line_of(60, seed=1, light=lambda index: 0.8))
    assert cli.main(["drift", str(later)]) == 0
    assert "Too early to tell: 60 first and 0 later pictures so far; 100 first pictures" in capsys.readouterr().out
    assert cli.main(["drift", str(later), "--against", str(first)]) == 0
    cells = next(line.split() for line in capsys.readouterr().out.splitlines() if " exposure " in line)
    assert float(cells[2]) == pytest.approx(1.0, abs=0.02)
    assert float(cells[3]) == pytest.approx(0.8, abs=0.02)
    assert cells[-1] == "DRIFT"


def test_the_range_that_is_drawn_is_that_of_the_pictures_compared_with(tmp_path):
    later = write(tmp_path / "later", line_of(200, seed=1, light=lambda index: 0.8))
    for number in (60, 150):
        first = write(tmp_path / str(number), line_of(number))
        (chart,) = (one for one in charts(*drift_of(later, against=first)) if one.title.startswith("Exposure"))
        assert np.mean(chart.values[: chart.num_first]) == pytest.approx(1.0, abs=0.02)
        assert (chart.num_first, len(chart.values)) == (min(number, 100), min(number, 100) + 200)
    (chart,) = (one for one in charts(*drift_of(later)) if one.title.startswith("Exposure"))
    assert (chart.num_first, len(chart.values)) == (100, 200)


def test_rows_without_traits_say_nothing_and_wrong_usage_is_one_line(tmp_path, capsys):
    shift = write(tmp_path / "shift", [InspectionResult("a.png", "normal", 0.1, time="2026-03-29T06:00:00")])
    assert cli.main(["drift", str(shift)]) == 0
    assert "Too early to tell: 0 first and 0 later pictures" in capsys.readouterr().out
    for words, message in (
        ([str(tmp_path / "none")], "There are no results in"),
        ([str(shift), "--against", "none"], "There are no results in 'none'"),
        ([str(shift), "--since", "noon"], "a moment must be like 06:00"),
        ([str(shift), "--output", str(tmp_path / "no" / "a.html")], "`--output` must be in a folder that exists"),
        ([str(shift), "--window", "3"], "must be a whole number of at least 30, got '3'"),
    ):
        assert cli.main(["drift", *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.strip().splitlines()) == 1
