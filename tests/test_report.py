"""The files an inspection leaves: read back by independent readers, and pages that no file name can break."""

import base64
import csv
import html.parser
import io
import json
import re
import string
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.report.overlays import colour_table
from modeling_anomalygpt.report.page import common_folder, render_page, short_name
from modeling_anomalygpt.report.report import CSV_COLUMNS, InspectionReport, regions_in_words, write_csv
from modeling_anomalygpt.report.words import REPORT_WORDS, report_words
from modeling_anomalygpt.results import InspectionResult

THRESHOLD = 0.3
NASTY = "</script><img src=x onerror=alert(1)>&'\".png"


def picture_file(folder, name="part.png", size=(90, 60), colour=(90, 120, 150)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")
    return str(path)


def result_of(path, size=(90, 60), verdict="anomalous", score=0.8, **changes):
    anomaly_map = np.full((size[1], size[0]), 0.05, dtype=np.float32)
    anomaly_map[10:20, 60:75] = score
    fields = {
        "image": path,
        "verdict": verdict,
        "pred_score": score,
        "log_odds": 2.5 if verdict == "anomalous" else -2.5,
        "answer": "Yes, there is a scratch.",
        "regions": find_regions(anomaly_map, THRESHOLD, mm_per_pixel=0.5) if verdict == "anomalous" else [],
        "anomaly_map": anomaly_map,
        "evidence": {"localization": "few_shot", "num_references": 2, "yes_probability": 0.924142},
        "seconds": 0.25,
    }
    return InspectionResult(**(fields | changes))


def error_of(path, message="cannot be read"):
    return InspectionResult(path, "error", error=message)


class Page(html.parser.HTMLParser):
    """What a browser would find: elements with attributes, and the data for the script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.scripts, self.text = [], None, {}, []
        self.feed(text)
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id", "main") if tag == "script" else self.inside

    def handle_endtag(self, tag):
        self.inside = None if tag == "script" else self.inside

    def handle_data(self, data):
        if self.inside:
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data
        else:
            self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def made(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 3, setup={"Part": "bolt"}, versions={"torch": "2"}, save_maps=True)
    report.add(result_of(picture_file(tmp_path / "in", "bad.png")), "bad")
    report.add(result_of(picture_file(tmp_path / "in", "good.png"), verdict="normal", score=0.1), "good")
    report.add(error_of(str(tmp_path / "in" / "gone.png")), "gone")
    report.write()
    return report


def test_every_picture_gets_its_files_and_errors_get_none(made):
    names = sorted(str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("in/")] == [
        "maps/bad.npy",
        "maps/good.npy",
        "overlays/bad.png",
        "overlays/good.png",
        "report.html",
        "results.csv",
    ]


def test_maps_are_float16_in_the_pictures_own_pixels(made):
    anomaly_map = np.load(made.folder / "maps" / "bad.npy")
    assert anomaly_map.dtype == np.float16
    assert anomaly_map.shape == (60, 90)
    assert anomaly_map.max() == pytest.approx(0.8, abs=1e-3)


def test_results_are_let_go_of_their_maps(made):
    assert all(result.anomaly_map is None and result.image_tokens is None for result in made.results)


def test_the_page_holds_all_rows_and_their_numbers(made):
    rows = Page((made.folder / "report.html").read_text(encoding="utf-8")).data["rows"]
    assert [row["verdict"] for row in rows] == ["anomalous", "normal", "error"]
    assert [row["name"] for row in rows] == ["bad.png", "good.png", "gone.png"]
    assert rows[0]["probability"] == "92.4 %"
    assert rows[0]["regions"][0]["place"] == "top right"
    assert rows[0]["regions"][0]["extent"] == "7.5 × 5 mm"
    assert rows[0]["regions"][0]["area"] == "37.5 mm²"
    assert rows[0]["evidence"] == ["Compared with 2 good pictures"]
    assert rows[2]["error"] == "cannot be read"


def test_the_page_shows_picture_map_and_outline_in_the_same_place(made):
    row = Page((made.folder / "report.html").read_text(encoding="utf-8")).data["rows"][0]
    photo, layer = (
        Image.open(io.BytesIO(base64.b64decode(row[key].split(",", 1)[1]))).convert("RGBA")
        for key in ("picture", "map")
    )
    assert photo.size == layer.size == (90, 60)
    assert np.abs(np.asarray(photo)[30, 30, :3].astype(int) - [90, 120, 150]).max() < 6
    np.testing.assert_allclose(np.asarray(layer)[15, 67], colour_table()[252], atol=1)
    xs, ys = zip(*[map(float, point.split(",")) for point in row["regions"][0]["line"].split()], strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (60.5, 74.5, 10.5, 19.5)


def test_the_page_needs_nothing_from_outside(made):
    text = (made.folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:"), (tag, attributes)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", text)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_only_the_reports_own_script_may_run(made):
    import hashlib

    page = Page((made.folder / "report.html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(page.scripts["main"].encode()).digest()).decode()
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_categories_and_answers_cannot_become_markup(tmp_path):
    plain, nasty = [], []
    for text, pages in (("plain.png", plain), (NASTY, nasty)):
        setup, versions = {"Part": text}, {text: text}
        result = error_of(f"/x/{text}", text)
        result.category, result.answer = text, text
        entry = {"picture": None, "map": None, "blended": None, "file": None, "size": None}
        entry |= {"lines": [], "pairs": []}
        other = error_of("/y/other.png")
        pages.append(
            render_page(
                [result, other], [entry, entry], 0.3, setup=setup, versions=versions,
                references=[(f"/r/{text}", "data:image/png;base64,")], num_references=1,
            )
        )  # fmt: skip
    plain, nasty = Page(plain[0]), Page(nasty[0])
    # (Long paths may break after a slash.)
    assert [tag for tag, _ in nasty.tags if tag != "wbr"] == [tag for tag, _ in plain.tags if tag != "wbr"]
    assert not any(key.startswith("on") for _, attributes in nasty.tags for key in attributes)
    assert nasty.data["rows"][0]["answer"] == NASTY


def test_damaged_file_names_and_control_characters_do_not_stop_the_report(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 1)
    report.add(error_of("/x/\udce4\x1b[31m.png"), "name")
    report.write()
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["rows"][0]["name"] == "?\ufffd[31m.png"


def test_numbers_that_are_not_finite_do_not_break_the_page(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 1)
    result = result_of(picture_file(tmp_path), log_odds=float("inf"), evidence={"yes_probability": float("nan")})
    report.add(result, "part")
    report.write()
    row = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["rows"][0]
    assert row["odds"] is None
    assert row["probability"] == ""


def test_a_verdict_that_the_map_does_not_bear_out_is_pointed_at(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 2)
    report.add(result_of(picture_file(tmp_path, "a.png"), verdict="normal", score=0.9), "a")
    report.add(result_of(picture_file(tmp_path, "b.png"), verdict="anomalous", score=0.2), "b")
    report.add(result_of(picture_file(tmp_path, "c.png"), verdict="anomalous", score=0.9), "c")
    report.write()
    rows = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["rows"]
    assert ["normal" in rows[0]["differs"], "anomalous" in rows[1]["differs"], rows[2]["differs"]] == [True, True, ""]


def test_the_third_verdict_is_counted_and_a_ratio_is_judged_by_one(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 3)
    reasons = [("close", "The map is near its limit."), ("few_normals", "Two good pictures promise little.")]
    ratio = {"evidence": {"limit": 0.2, "reasons": [{"kind": kind, "text": text} for kind, text in reasons]}}
    for name, verdict, score in (("a", "uncertain", 1.02), ("b", "normal", 0.9), ("c", "normal", 1.4)):
        report.add(result_of(picture_file(tmp_path, f"{name}.png"), verdict=verdict, score=score, **ratio), name)
    page = Page(report.write().read_text(encoding="utf-8"))
    tiles = [attrs["data-filter"] for _, attrs in page.tags if "data-filter" in attrs]
    assert tiles[:4] == ["all", "anomalous", "uncertain", "normal"]
    assert any("ratio to what good pictures reach" in text for text in page.text)
    assert [bool(row["differs"]) for row in page.data["rows"]] == [False, False, True]
    assert page.data["rows"][0]["evidence"] == ["The map is near its limit"]
    assert page.text.count("Two good pictures promise little.") == 1  # beside the good pictures, not with each
    assert any("its middle is the upper limit of good pictures." in text for text in page.text)


@pytest.mark.parametrize(("limit", "shown"), [({"limit": 0.2}, "Highest score: 1.500"), ({}, "Highest score: 0.600")])
def test_the_highest_score_is_on_the_scale_of_the_pictures_score(tmp_path, limit, shown):
    report = InspectionReport(tmp_path, THRESHOLD, 1)
    evidence = {"localization": "few_shot", "num_references": 2, "peak": {"x": 3, "y": 4, "score": 0.6}} | limit
    found = result_of(picture_file(tmp_path, "a.png"), score=0.6, pred_score=1.5 if limit else 0.6, evidence=evidence)
    report.add(found, "a")
    row = Page(report.write().read_text(encoding="utf-8")).data["rows"][0]
    assert row["evidence"] == ["Compared with 2 good pictures", f"{shown} at x 3, y 4"]
    assert row["calibrated"] == bool(limit)


def test_a_region_is_shown_beside_the_good_patch_most_like_it(tmp_path):
    good = Image.new("RGB", (180, 120), (0, 0, 255))
    good.paste((0, 255, 0), (120, 10, 160, 50))  # the patch, at twice the scale of the picture inspected
    good.save(tmp_path / "good.png")
    result = result_of(picture_file(tmp_path, colour=(255, 0, 0)))
    box = [120 / 180, 10 / 120, 160 / 180, 50 / 120]
    result.regions = [replace(result.regions[0], nearest_good={"reference": 0, "box": box})]
    report = InspectionReport(tmp_path, THRESHOLD, 1, references=[str(tmp_path / "good.png")])
    report.add(result, "part")
    (pair,) = Page(report.write().read_text(encoding="utf-8")).data["rows"][0]["pairs"]
    details = [Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))) for text in pair["details"]]
    assert pair["region"] == 1
    red, green = (np.asarray(detail.resize((1, 1), Image.Resampling.BOX))[0, 0] for detail in details)
    assert red[0] > 240 > 20 > red[2]
    assert green[1] > 200 > 60 > green[2]


def test_results_of_an_earlier_run_keep_their_maps_or_their_overlays(tmp_path):
    path = picture_file(tmp_path)
    for save_maps, kept in ((True, "map"), (False, "blended")):
        folder = tmp_path / kept
        folder.mkdir()
        InspectionReport(folder, THRESHOLD, 1, save_maps=save_maps).add(result_of(path), "part")
        resumed = InspectionResult.from_dict(result_of(path).to_dict() | {"evidence": {"resumed": True}})
        report = InspectionReport(folder, THRESHOLD, 1, save_maps=save_maps)
        report.add(resumed, "part")
        report.write()
        row = Page((folder / "report.html").read_text(encoding="utf-8")).data["rows"][0]
        assert [bool(row["map"]), bool(row["blended"])] == [kept == "map", kept == "blended"]
        assert row["file"] == "overlays/part.png"


def test_a_result_from_memory_is_shown_with_the_picture_given(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 1)
    report.add(result_of(None), "first", picture=Image.new("RGB", (90, 60)))
    report.write()
    row = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["rows"][0]
    assert row["name"] == "#1"
    assert row["picture"].startswith("data:image/jpeg")


def test_an_empty_inspection_still_gives_a_page(tmp_path):
    page = Page(InspectionReport(tmp_path, THRESHOLD, 0).write().read_text(encoding="utf-8"))
    assert page.data["rows"] == []


def test_many_pictures_are_shown_smaller(tmp_path):
    sides = [InspectionReport(tmp_path, THRESHOLD, count).side for count in (1, 60, 61, 900, 2000, 5000)]
    assert sides == [800, 800, 560, 400, 280, 200]


def test_the_summary_counts_and_sorts_folders_by_their_rate(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 4)
    for name, verdict in (
        ("a/1.png", "normal"),
        ("a/2.png", "normal"),
        ("b/1.png", "anomalous"),
        ("b/2.png", "normal"),
    ):
        report.add(result_of(picture_file(tmp_path / "in", name), verdict=verdict, score=0.1), name.replace("/", "-"))
    text = report.write().read_text(encoding="utf-8")
    assert "25.0 % of those inspected" in text
    assert "75.0 % of those inspected" in text
    folders = re.findall(r"<tr><td>([^<]+)<td>(\d+)<td>(\d+)<td>([^<]+)<td>([\d.]+)", text)
    assert folders == [("b", "2", "1", "50 %", "0.100"), ("a", "2", "0", "0 %", "0.100")]


def test_the_csv_reads_back_with_the_columns_promised(made):
    with (made.folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[0]["regions"] == "top right"
    assert float(rows[0]["log_odds"]) == 2.5
    assert (rows[0]["area_pixels"], rows[0]["area_mm2"]) == ("150", "37.5")
    assert (rows[2]["verdict"], rows[2]["pred_score"], rows[2]["error"]) == ("error", "", "cannot be read")


def test_the_csv_holds_no_formula_and_no_line_break_from_outside(tmp_path):
    results = [error_of("=cmd|'/c calc'!A1", "-1\n+2"), result_of("@x", answer="+1", log_odds=-3.0)]
    write_csv(results, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["image"] == "'=cmd|'/c calc'!A1"
    assert rows[0]["error"] == "'-1 +2"
    assert rows[1]["answer"] == "'+1"
    assert rows[1]["log_odds"] == "-3.0", "numbers stay numbers"


def test_places_are_named_once_with_their_number():
    anomaly_map = np.zeros((90, 90), dtype=np.float32)
    anomaly_map[2:6, 2:6], anomaly_map[12:16, 12:16], anomaly_map[40:50, 40:50] = 0.9, 0.8, 0.7
    regions = find_regions(anomaly_map)
    assert regions_in_words(regions) == "top left (2), center"
    assert regions_in_words(regions, limit=1) == "top left (2) ..."
    assert regions_in_words(regions, "zh") == "左上角 (2)、中央"
    assert regions_in_words([]) == ""


def test_the_common_folder_ends_at_a_whole_name():
    assert common_folder(["/a/b/1.png", "/a/bc/1.png"]) == "/a/"
    assert common_folder(["1.png", "a/1.png"]) == ""
    assert common_folder([]) == ""
    assert short_name("/a/b/1.png", "/a/") == "b/1.png"


def test_both_languages_have_the_same_words_with_the_same_gaps():
    def gaps(sentence):
        return {field for _, field, _, _ in string.Formatter().parse(sentence) if field}

    english, chinese = REPORT_WORDS["en"], REPORT_WORDS["zh"]
    assert english.keys() == chinese.keys()
    assert {key: gaps(text) for key, text in english.items()} == {key: gaps(text) for key, text in chinese.items()}
    with pytest.raises(ValueError, match="fr"):
        report_words("fr")


def test_a_chinese_report_speaks_chinese(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 1, language="zh")
    report.add(result_of(picture_file(tmp_path), language="zh"), "part")
    page = Page(report.write().read_text(encoding="utf-8"))
    assert ("html", {"lang": "zh-CN"}) in page.tags
    assert page.data["rows"][0]["regions"][0]["place"] == "右上角"
    assert "检测报告" in "".join(page.text)


def test_a_failed_write_leaves_the_earlier_file_and_no_rest(tmp_path, monkeypatch):
    from modeling_anomalygpt import files as atomic_write

    path = tmp_path / "report.html"
    atomic_write.write_atomically(path, "before")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        atomic_write.write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
