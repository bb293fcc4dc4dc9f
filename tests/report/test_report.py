"""The files an inspection leaves: read back by independent readers, and pages that no file name can break."""

import base64
import csv
import hashlib
import html.parser
import io
import json
import pathlib
import re
import string
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.report import page as page_module
from modeling_anomalygpt.report.overlays import colour_table
from modeling_anomalygpt.report.page import common_folder, report_words, short_name
from modeling_anomalygpt.report.report import CSV_COLUMNS, InspectionReport, regions_in_words, write_csv
from modeling_anomalygpt.results import InspectionResult

THRESHOLD = 0.3
NASTY = "</script><img src=x onerror=alert(1)>&'\".png"


def result_of(path, size=(90, 60), verdict="anomalous", score=0.8, colour=(90, 120, 150), **changes):
    anomaly_map = np.full((size[1], size[0]), 0.05, dtype=np.float32)
    anomaly_map[10:20, 60:75] = score
    fields = {
        "image": path,
        "verdict": verdict,
        "pred_score": score,
        "log_odds": 2.5 if verdict == "anomalous" else -2.5,
        "answer": "Yes, there is a scratch." if verdict == "anomalous" else "No.",
        "regions": find_regions(anomaly_map, THRESHOLD, mm_per_pixel=0.5) if verdict == "anomalous" else [],
        "anomaly_map": anomaly_map,
        "evidence": {"localization": "few_shot", "num_references": 2, "yes_probability": 0.924142},
        "seconds": 0.25,
        "judged_image": Image.new("RGB", size, colour),
    }
    return InspectionResult(**(fields | changes))


def error_of(path, message="cannot be read"):
    return InspectionResult(path, "error", error=message)


class Page(html.parser.HTMLParser):
    """What a browser would find: elements with attributes, and the data for the script."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.inside, self.scripts, self.text = [], None, {}, []
        self.source = pathlib.Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.data = json.loads(self.scripts["data"])
        self.rows = self.data["rows"]

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


def page_of(folder, *results, **options):
    report = InspectionReport(folder, THRESHOLD, len(results), **options)
    for number, result in enumerate(results):
        report.add(result, f"{number}")
    return Page(report.write())


def picture_in(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))


@pytest.fixture
def made(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 3, setup={"Part": "bolt"}, versions={"torch": "2"}, save_maps=True)
    for result, name in (
        (result_of("/in/bad.png"), "bad"),
        (result_of("/in/good.png", verdict="normal", score=0.1), "good"),
        (error_of("/in/gone.png"), "gone"),
    ):
        report.add(result, name)
    report.write()
    return report


def test_every_picture_gets_its_files_and_errors_get_none(made):
    names = sorted(str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file())
    assert names == [
        "maps/bad.npy", "maps/good.npy", "overlays/bad.png", "overlays/good.png", "pictures.jsonl", "report.html",
        "results.csv",
    ]  # fmt: skip
    anomaly_map = np.load(made.folder / "maps" / "bad.npy")
    assert (anomaly_map.dtype, anomaly_map.shape) == (np.float16, (60, 90))
    assert anomaly_map.max() == pytest.approx(0.8, abs=1e-3)
    kept = [(one.anomaly_map, one.image_tokens, one.judged_image) for one in made.results]
    assert kept == [(None, None, None)] * 3, "thousands of results must fit into memory"


def test_the_page_holds_all_rows_and_their_numbers(made):
    rows = Page(made.folder / "report.html").rows
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("bad.png", "anomalous"), ("good.png", "normal"), ("gone.png", "error"),
    ]  # fmt: skip
    region = rows[0]["regions"][0]
    assert (region["place"], region["extent"], region["area"]) == ("top right", "7.5 × 5 mm", "37.5 mm²")
    assert rows[0]["probability"] == "92.4 %"
    assert rows[0]["evidence"] == ["Compared with 2 good pictures"]
    assert rows[2]["error"] == "cannot be read"


def test_the_page_shows_picture_map_and_outline_in_the_same_place(made):
    row = Page(made.folder / "report.html").rows[0]
    photo, layer = (picture_in(row[key]).convert("RGBA") for key in ("picture", "map"))
    assert photo.size == layer.size == (90, 60)
    assert np.abs(np.asarray(photo)[30, 30, :3].astype(int) - [90, 120, 150]).max() < 6
    np.testing.assert_allclose(np.asarray(layer)[15, 67], colour_table()[252], atol=1)
    xs, ys = zip(*[map(float, point.split(",")) for point in row["regions"][0]["line"].split()], strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (60.5, 74.5, 10.5, 19.5)


@pytest.mark.parametrize("meanwhile", ["another picture", "another size", "gone"])
def test_the_page_shows_the_picture_that_was_judged_whatever_has_become_of_its_file(tmp_path, meanwhile):
    path = tmp_path / "part.png"
    if meanwhile != "gone":
        Image.new("RGB", (90, 60) if meanwhile == "another picture" else (20, 30), (255, 0, 0)).save(path)
    (row,) = page_of(tmp_path, result_of(str(path), colour=(0, 0, 255))).rows
    red, _, blue = np.asarray(picture_in(row["picture"]))[40, 20].astype(int)
    assert blue > 240 > 20 > red
    overlay = np.asarray(Image.open(tmp_path / row["file"]))
    assert overlay[60, 60].tolist() == [0, 0, 255]


def test_a_result_of_an_earlier_run_is_shown_as_it_was_then(tmp_path):
    page_of(tmp_path, first := result_of("/in/a.png"), result_of("/in/b.png", verdict="normal"))
    resumed, other = (InspectionResult.from_dict(first.to_dict()) for _ in range(2))
    resumed.evidence = first.evidence | {"resumed": True}
    other.evidence, other.image = resumed.evidence, "/in/never.png"
    with (tmp_path / "pictures.jsonl").open("a") as file:
        file.write('{"image": "half')  # cut off by a kill
    rows = page_of(tmp_path, resumed, other, result_of("/in/c.png"), resume=True).rows
    assert [bool(row["picture"]) for row in rows] == [True, False, True]
    assert rows[0]["map"].startswith("data:image/png")
    assert rows[0]["file"] == "overlays/0.png"
    changed = InspectionResult.from_dict(resumed.to_dict() | {"pred_score": 0.1})
    assert page_of(tmp_path, changed, resume=True).rows[0]["picture"] is None, "what was kept is of another judgement"
    # A picture whose overlay was written over by another's has none.
    page_of(tmp_path, result_of("/in/d.png"), resume=True)
    assert page_of(tmp_path, resumed, resume=True).rows[0]["file"] is None


def test_the_page_needs_nothing_from_outside_and_runs_only_its_own_script(made):
    page = Page(made.folder / "report.html")
    for tag, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:"), (tag, attributes)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", page.source)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    digest = base64.b64encode(hashlib.sha256(page.scripts["main"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_categories_and_answers_cannot_become_markup(tmp_path):
    pages = []
    for text in ("plain.png", NASTY):
        result = error_of(f"/x/{text}", text)
        result.category, result.answer = text, text
        report = InspectionReport(tmp_path, 0.3, 2, setup={"Part": text}, versions={text: text}, references=[text])
        report.add(result, "a")
        report.add(error_of("/y/other.png"), "b")
        pages.append(Page(report.write()))
    plain, nasty = pages
    # (Long paths may break after a slash.)
    assert [tag for tag, _ in nasty.tags if tag != "wbr"] == [tag for tag, _ in plain.tags if tag != "wbr"]
    assert not any(key.startswith("on") for _, attributes in nasty.tags for key in attributes)
    assert nasty.rows[0]["answer"] == NASTY


def test_damaged_names_and_numbers_do_not_stop_the_report(tmp_path):
    damaged = error_of("/x/\udce4\x1b[31m\u2028.png")
    infinite = result_of("/x/a.png", log_odds=float("inf"), evidence={"yes_probability": float("nan")})
    rows = page_of(tmp_path, damaged, infinite).rows
    assert rows[0]["name"] == "?\ufffd[31m\ufffd.png"
    assert (rows[1]["odds"], rows[1]["probability"]) == (None, "")


@pytest.mark.parametrize(
    ("verdict", "score", "changes", "said"),
    [
        ("normal", 0.9, {}, "the map reaches"),
        ("anomalous", 0.2, {}, "the map stays below"),
        ("anomalous", 0.9, {"answer": "No, there is no anomaly in the image."}, "but the answer says no"),
        ("normal", 0.1, {"answer": "Yes, there is a crack."}, "but the answer says yes"),
        ("anomalous", 0.9, {"answer": "没有，图像中没有异常。", "language": "zh"}, "but the answer says no"),
        ("normal", 0.1, {"answer": "Yes, it is.", "question": "Is it good?"}, ""),
        ("anomalous", 0.9, {}, ""),
        ("uncertain", 0.9, {}, ""),
        ("normal", 1.4, {"evidence": {"threshold": 0.2}}, "the map reaches"),
        ("normal", 0.9, {"evidence": {"threshold": 0.2}}, ""),  # a ratio is judged by 1
    ],
)
def test_a_verdict_that_map_or_answer_contradict_is_pointed_at_and_counted(tmp_path, verdict, score, changes, said):
    page = page_of(tmp_path, result_of("/a.png", verdict=verdict, score=score, **changes))
    assert said in page.rows[0]["differs"]
    assert bool(page.rows[0]["differs"]) == bool(said)
    tile = re.search(r'data-filter="differs".*?<strong>(\d+)<', page.source, re.DOTALL)
    assert int(tile[1]) == bool(said)


def test_each_picture_has_its_own_threshold(tmp_path):
    results = [
        result_of(f"/{at}.png", verdict="normal", score=0.5, evidence={"region_threshold": at}) for at in (0.4, 0.6)
    ]
    page = page_of(tmp_path, *results)
    assert [row["statistics"][-1] for row in page.rows] == [
        "Regions begin at 0.40 of the map", "Regions begin at 0.60 of the map",
    ]  # fmt: skip
    assert [bool(row["differs"]) for row in page.rows] == [True, False]
    levels = [np.asarray(picture_in(row["map"]).convert("RGBA"))[15, 67, 3] for row in page.rows]
    assert levels[0] > levels[1], "the same score is further up the scale of the lower threshold"
    assert "0.40–0.60" in page.text


def test_reasons_are_in_plain_words_and_statistics_behind_a_click(tmp_path):
    reasons = {
        "close": "The map is near its limit.",
        "map_above": "1.02 times.",
        "few_references": "Two promise little.",
    }
    evidence = {
        "threshold": 0.2,
        "reasons": [{"kind": kind, "text": text} for kind, text in reasons.items()],
        "peak": {"x": 3, "y": 4, "score": 0.6},
    }
    page = page_of(
        tmp_path, *(result_of(f"/{n}.png", verdict="uncertain", score=1.02, evidence=evidence) for n in "ab")
    )
    assert page.rows[0]["evidence"] == ["The map is near its limit"]
    assert page.rows[0]["statistics"][:2] == ["1.02 times", "Highest score: 1.020 at x 3, y 4"]
    behind = re.search("<details>(.*?)</details>", page.source, re.DOTALL)[1]
    assert behind.count("Two promise little.") == page.source.count("Two promise little.") == 1
    assert "its middle is the upper limit of good pictures." in page.source
    assert [attrs["data-filter"] for _, attrs in page.tags if "data-filter" in attrs][:3] == [
        "all", "anomalous", "uncertain",
    ]  # fmt: skip


def test_pictures_without_a_verdict_are_counted_and_shown_as_such(tmp_path):
    page = page_of(tmp_path, result_of("/a.png", verdict="unknown", score=0.9), result_of("/b.png"))
    assert [attrs["data-filter"] for _, attrs in page.tags if "data-filter" in attrs][:3] == [
        "all", "anomalous", "unknown",
    ]  # fmt: skip
    assert page.rows[0]["differs"] == ""
    assert all(page.data["words"][row["verdict"]] for row in page.rows)


def test_a_score_without_a_limit_is_the_map_s(tmp_path):
    evidence = {"localization": "text_guided", "peak": {"x": 3, "y": 4, "score": 0.6}}
    (row,) = page_of(tmp_path, result_of("/a.png", score=0.6, evidence=evidence)).rows
    assert (row["calibrated"], row["statistics"][0]) == (False, "Highest score: 0.600 at x 3, y 4")


def test_worst_first_follows_the_score_that_is_shown():
    script = pathlib.Path(page_module.__file__).with_name("page.js").read_text(encoding="utf-8")
    program = script[script.index("const kinds") : script.index("function make")]
    rows = [
        {"verdict": "normal", "score": 3.0, "odds": 9, "index": 0},
        {"verdict": "anomalous", "score": 1.1, "odds": 8, "index": 1},
        {"verdict": "anomalous", "score": 4.0, "odds": -1, "index": 2},
    ]
    program += f"\nconsole.log(JSON.stringify({json.dumps(rows)}.sort(orders.worst).map((row) => row.index)));"
    try:
        done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs node")
    assert json.loads(done.stdout) == [2, 1, 0], done.stderr


def test_a_region_is_shown_beside_the_good_patch_most_like_it(tmp_path):
    good = Image.new("RGB", (180, 120), (0, 0, 255))
    good.paste((0, 255, 0), (120, 10, 160, 50))  # the patch, at twice the scale of the picture inspected
    good.save(tmp_path / "good.png")
    result = result_of("/in/part.png", colour=(255, 0, 0))
    box = [120 / 180, 10 / 120, 160 / 180, 50 / 120]
    result.regions = [replace(result.regions[0], nearest_good={"reference": 0, "box": box})]
    report = InspectionReport(tmp_path, THRESHOLD, 2, references=[str(tmp_path / "good.png")])
    report.add(result, "part")
    good.resize((18, 12)).save(tmp_path / "good.png")  # no longer what the part was compared with
    later = InspectionReport(tmp_path, THRESHOLD, 1, references=[str(tmp_path / "good.png")])
    (tmp_path / "good.png").unlink()
    later.add(result, "part")
    assert Page(later.write()).rows[0]["pairs"] == []
    (pair,) = Page(report.write()).rows[0]["pairs"]
    red, green = (np.asarray(picture_in(text).resize((1, 1), Image.Resampling.BOX))[0, 0] for text in pair["details"])
    assert pair["region"] == 1
    assert red[0] > 240 > 20 > red[2]
    assert green[1] > 200 > 60 > green[2]


@pytest.mark.parametrize("size", [(2, 2), (7, 30), (30, 3)])
def test_a_region_of_a_tiny_picture_is_shown_beside_the_good_patch_too(tmp_path, size):
    Image.new("RGB", size, (0, 255, 0)).save(tmp_path / "good.png")
    anomaly_map = np.full(size[::-1], 0.8, dtype=np.float32)
    (region,) = find_regions(anomaly_map, THRESHOLD)
    regions = [replace(region, nearest_good={"reference": 0, "box": [0, 0, 1, 1]})]
    result = result_of("/in/tiny.png", size, anomaly_map=anomaly_map, regions=regions)
    (row,) = page_of(tmp_path, result, references=[str(tmp_path / "good.png")]).rows
    assert len(row["pairs"][0]["details"]) == 2
    assert (row["picture"] is None, row["map"] is None) == (False, False)


def test_a_picture_that_cannot_be_shown_has_its_numbers_and_the_others_are_shown(tmp_path):
    odd = result_of("/in/odd.png", anomaly_map=np.zeros((3, 3), np.float32))
    with pytest.warns(UserWarning, match="'/in/odd.png' is not shown in the report: .*must have the picture's size"):
        first, second = page_of(tmp_path, odd, result_of("/in/next.png")).rows
    assert (first["picture"], first["score"], first["regions"][0]["place"]) == (None, 0.8, "top right")
    assert second["picture"].startswith("data:image/jpeg")


def test_of_a_picture_that_is_gone_the_regions_are_still_listed(tmp_path):
    (row,) = page_of(tmp_path, result_of("/in/gone.png", judged_image=None, anomaly_map=None)).rows
    assert (row["picture"], row["more"]) == (None, 0)
    assert [(region["place"], region["box"]) for region in row["regions"]] == [("top right", [60, 10, 75, 20])]


def test_deep_references_are_shown_as_they_were_compared(tmp_path):
    Image.fromarray(np.full((40, 40), 4095, np.uint16)).save(tmp_path / "good.png")
    result = result_of("/in/part.png")
    nearest = {"reference": 0, "box": [0, 0, 1, 1]}
    result.regions = [replace(result.regions[0], nearest_good=nearest)]
    report = InspectionReport(tmp_path, THRESHOLD, 1, references=[str(tmp_path / "good.png")], bits=12)
    report.add(result, "part")
    page = report.write()
    (pair,) = Page(page).rows[0]["pairs"]
    assert np.asarray(picture_in(pair["details"][1])).min() > 240
    shown = re.findall(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", page.read_text(encoding="utf-8"))
    assert any(np.asarray(picture_in(text)).min() > 240 and picture_in(text).size == (40, 40) for text in shown)


def test_a_result_from_memory_and_an_empty_inspection_give_a_page(tmp_path):
    report = InspectionReport(tmp_path, THRESHOLD, 1)
    report.add(result_of(None, judged_image=None), "first", picture=Image.new("RGB", (90, 60)))
    (row,) = Page(report.write()).rows
    assert row["name"] == "#1"
    assert row["picture"].startswith("data:image/jpeg")
    assert page_of(tmp_path).rows == []


def test_the_summary_counts_and_sorts_folders_by_their_rate(tmp_path):
    verdicts = {"a/1.png": "normal", "a/2.png": "normal", "b/1.png": "anomalous", "b/2.png": "normal"}
    page = page_of(tmp_path, *(result_of(f"/in/{name}", verdict=kind, score=0.1) for name, kind in verdicts.items()))
    assert "25.0 % of those inspected" in page.text
    assert "75.0 % of those inspected" in page.text
    folders = re.findall(r"<tr><td>([^<]+)<td>(\d+)<td>(\d+)<td>([^<]+)<td>([\d.]+)", page.source)
    assert folders == [("b", "2", "1", "50 %", "0.100"), ("a", "2", "0", "0 %", "0.100")]


def test_the_csv_reads_back_without_formulas_and_line_breaks_from_outside(made):
    results = [*made.results, error_of("=cmd|'/c calc'!A1", "-1\n+2"), result_of("@x", answer="+1", log_odds=-3.0)]
    write_csv(results, made.folder / "results.csv")
    with (made.folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [rows[0][name] for name in ("regions", "log_odds", "area_pixels", "area_mm2")] == [
        "top right", "2.5", "150", "37.5",
    ]  # fmt: skip
    assert (rows[2]["verdict"], rows[2]["pred_score"], rows[2]["error"]) == ("error", "", "cannot be read")
    assert (rows[3]["image"], rows[3]["error"]) == ("'=cmd|'/c calc'!A1", "'-1 +2")
    assert (rows[4]["answer"], rows[4]["log_odds"]) == ("'+1", "-3.0"), "numbers stay numbers"


@pytest.mark.parametrize("name", ["a;=1+1;.png", 'b;"=1+1', 'c"; +1', 'd;";@x'])
def test_no_cell_is_a_formula_where_a_semicolon_begins_one(tmp_path, name):
    write_csv([result_of(name, answer=name)], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [cell.strip() for row in csv.reader(file, delimiter=";") for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    with (tmp_path / "x.csv").open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"].replace("'", "") == name


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
    assert common_folder(["1.png", "a/1.png"]) == common_folder([]) == ""
    assert short_name("/a/b/1.png", "/a/") == "b/1.png"


def test_both_languages_have_the_same_words_with_the_same_gaps(tmp_path):
    def gaps(language):
        return {
            key: {field for _, field, _, _ in string.Formatter().parse(text) if field}
            for key, text in report_words(language).items()
        }

    assert gaps("en") == gaps("zh")
    with pytest.raises(ValueError, match="fr"):
        report_words("fr")
    page = page_of(tmp_path, result_of("/in/part.png", language="zh"), language="zh")
    assert ("html", {"lang": "zh-CN"}) in page.tags
    assert page.rows[0]["regions"][0]["place"] == "右上角"
    assert "检测报告" in page.text
