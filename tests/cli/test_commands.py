"""The command: run as a user runs it, with a stand-in for the inspector; once with a real random checkpoint."""

import argparse
import importlib
import io
import json
import os
import pathlib
import shlex
import subprocess
import sys
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import modeling_anomalygpt
from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import inspect as cli_inspect
from modeling_anomalygpt.cli.tables import format_table, text_width
from modeling_anomalygpt.errors import describe_error
from modeling_anomalygpt.images import PictureError, load_picture
from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.results import InspectionResult, ResultsFile, source_of
from tests.clean_process import run_python

ROOT = pathlib.Path(__file__).parents[2]
HELP = ROOT / "modeling_anomalygpt" / "cli" / "help"


class StandIn:
    """Calls a picture anomalous when its middle is bright; stops where a test wants it to."""

    region_threshold = 0.5
    stop_at, stop_with, reasons, bits = None, None, (), None

    def __init__(self):
        self.calls, self.references, self.calibrated = [], None, None

    def find_foreground(self, images, bits):
        found = np.zeros(load_picture(images[0]).size[::-1], dtype=bool)
        found[5:15, 6:24] = True
        return found

    def set_references(self, images, category, description, bits, roi, **poses):
        options = {"category": category, "description": description}
        self.roi = roi
        self.references = [load_picture(image).size for image in images], options

    def load_references(self, path, category, description):
        self.references = path, {"category": category, "description": description}

    def calibrate(self, normals, max_false_alarm, progress):
        self.calibrated = normals, max_false_alarm
        learned = {"num_normals": 20, "supported_false_alarm_rate": 0.139, "confidence": 0.95, "enough": False}
        return learned | {"needed": 149, "num_stopped": 3}

    def inspect(self, picture, options):
        self.calls.append(vars(options))
        return self._result(picture, load_picture(picture), vars(options))

    def inspect_many(self, pictures, options, batch_size=1, progress=True, results_file=None, resume=False):
        options = vars(options)
        self.calls.append(options | {"batch_size": batch_size})
        rows = ResultsFile(results_file, resume)
        try:
            yield from self._results(pictures, options, rows)
        finally:
            rows.close()

    def _results(self, pictures, options, rows):
        for number, picture in enumerate(pictures):
            if number == self.stop_at:
                raise self.stop_with
            known = rows.finished(picture)
            if known is not None:
                known.evidence["resumed"] = True
                yield known
                continue
            source = source_of(picture)
            try:
                result = self._result(picture, load_picture(picture), options)
            except (PictureError, OSError) as error:
                result = InspectionResult(picture, "error", error=str(error))
            result.source = source
            rows.append(result)
            yield result

    def ask(self, result, question, stream=False):
        if "?" not in question:
            raise ValueError("`question` must end with a question mark.")
        return iter(["It is ", "in the middle."])

    def _result(self, path, picture, options):
        anomaly_map = np.asarray(picture.convert("L"), dtype=np.float32) / 255
        score = float(anomaly_map.max())
        anomalous = score >= 0.5
        regions = find_regions(anomaly_map, mm_per_pixel=options.get("mm_per_pixel")) if anomalous else []
        odds = None if not options.get("use_language", True) else 3.0 if anomalous else -3.0
        answer = "" if odds is None else "Yes, it is bright." if anomalous else "No."
        verdict = "uncertain" if self.reasons else "anomalous" if anomalous else "normal"
        evidence = {"reasons": [{"kind": kind, "text": text} for kind, text in self.reasons]} if self.reasons else {}
        options = {"evidence": evidence, "judged_image": picture}
        return InspectionResult(path, verdict, score, odds, answer, regions, anomaly_map, **options)


@pytest.fixture
def inspector(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr("modeling_anomalygpt.inspector.AnomalyInspector.from_pretrained", lambda *a, **k: stand_in)
    return stand_in


def draw(path, bright=False):
    pixels = np.full((20, 30), 20, dtype=np.uint8)
    pixels[8:12, 13:18] = 250 if bright else 20
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name, bright in (("line/good.png", False), ("line/bad.png", True), ("reference/1.png", False)):
        draw(tmp_path / name, bright)
    return tmp_path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def rows_of(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "results.jsonl").read_text().splitlines()]


def test_inspecting_a_folder_prints_a_table_and_writes_everything(photos, inspector, capsys):
    assert run("inspect", "line", "--references", "reference", "--category", "bolt", "--output", "out") == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["picture", "verdict", "score", "log-odds", "regions", "answer"]
    assert lines[2].split(maxsplit=5) == ["bad.png", "anomalous", "0.980", "+3.00", "center", "Yes, it is bright."]
    assert lines[3].split(maxsplit=5) == ["good.png", "normal", "0.078", "-3.00", "-", "No."]
    assert "2 pictures: 1 anomalous, 1 normal" in out
    assert f"Report: {pathlib.Path('out', 'report.html')}" in out
    assert list(rows_of("out")[0])[:5] == ["image", "verdict", "pred_score", "log_odds", "answer"]
    for name in ("results.csv", "report.html", "overlays/bad.png", "overlays/good.png"):
        assert (photos / "out" / name).stat().st_size > 100, name
    assert not (photos / "out" / "maps").exists()
    assert inspector.references == ([(30, 20)], {"category": "bolt", "description": None})


def test_options_reach_the_inspector(photos, inspector, monkeypatch):
    loaded = {}

    def from_pretrained(model, **options):
        loaded.update(options, model=model)
        return inspector

    monkeypatch.setattr("modeling_anomalygpt.inspector.AnomalyInspector.from_pretrained", from_pretrained)
    code = run(
        "inspect", "line/*.png", "--model", "line", "--tile", 64, "--device", "cpu", "--dtype", "bfloat16",
        "--language", "zh", "--question", "有吗？", "--description", "圆的", "--no-language", "--mm-per-pixel", "0.5",
        "--batch-size", 3, "--output", "out", "--save-maps",
    )  # fmt: skip
    assert code == 0
    assert loaded == {"model": "line", "device": "cpu", "dtype": "bfloat16", "tile": 64}
    assert inspector.calls == [
        {
            "batch_size": 3, "question": "有吗？", "language": "zh", "category": None, "description": "圆的",
            "use_language": False, "mm_per_pixel": 0.5, "localization": "auto", "answer": True,
        }
    ]  # fmt: skip
    assert rows_of("out")[0]["regions"][0]["width_mm"] == 2.5
    assert rows_of("out")[0]["log_odds"] is None
    assert np.load("out/maps/bad.npy").shape == (20, 30)


def test_without_an_output_folder_a_new_one_is_taken_each_time(photos, inspector):
    assert [run("inspect", "line/good.png"), run("inspect", "line/bad.png")] == [0, 0]
    assert [rows_of(name)[0]["image"] for name in ("anomalygpt_results", "anomalygpt_results_2")] == [
        "line/good.png", "line/bad.png",
    ]  # fmt: skip
    assert cli_inspect.choose_folder(None, resume=True).name == "anomalygpt_results_2"
    assert cli_inspect.choose_folder(None, resume=False).name == "anomalygpt_results_3"


def test_results_of_an_earlier_run_are_put_aside_whole_and_nothing_old_stands_beside_the_new(photos, inspector):
    for query in ("line", "line/bad.png", "line/good.png"):
        assert run("inspect", query, "--output", "out", "--save-maps") == 0
    assert [row["image"] for row in rows_of("out")] == ["line/good.png"]
    assert [path.name for path in pathlib.Path("out/overlays").iterdir()] == ["good.png"]
    assert [row["image"] for row in rows_of("out/previous")] == ["line/bad.png"]
    for name in ("overlays/bad.png", "maps/bad.npy", "report.html", "results.csv"):
        assert pathlib.Path("out/previous", name).exists(), name
    assert not pathlib.Path("out/previous/overlays/good.png").exists()


def test_what_was_said_of_an_earlier_run_does_not_stand_beside_another_one_put_aside_later(photos, inspector):
    out = pathlib.Path("out")
    for number, query in enumerate(("line", "line/bad.png", "line/good.png")):
        assert run("inspect", query, "--output", "out") == 0
        if number == 0:
            (out / "feedback.jsonl").write_text('{"of": "line"}\n')
        if number == 1:
            assert (out / "previous" / "feedback.jsonl").exists()
            (out / "previous" / "notes.txt").write_text("mine")
    assert not (out / "previous" / "feedback.jsonl").exists()
    assert (out / "previous" / "notes.txt").read_text() == "mine"
    # A run that was killed while it put the one before aside.
    (out / "previous.partial").mkdir()
    (out / "results.jsonl").rename(out / "previous.partial" / "results.jsonl")
    assert run("inspect", "line/bad.png", "--output", "out") == 0
    assert [row["image"] for row in rows_of("out/previous")] == ["line/good.png"]
    assert (out / "previous" / "report.html").exists()
    assert not (out / "previous.partial").exists()


def test_results_among_the_pictures_are_neither_inspected_nor_compared_with(photos, inspector):
    for _ in range(2):
        assert run("inspect", "line", "--output", "line/out") == 0
        assert len(rows_of("line/out")) == 2
    assert run("inspect", "line", "--references", "line", "--output", "other") == 0
    assert len(rows_of("other")) == len(inspector.references[0]) == 2
    assert run("inspect", "line/out/overlays/bad.png", "--output", "named") == 0, "a file that is named is taken"


@pytest.mark.parametrize(
    ("extra", "code"), [(["line/good.png"], 0), (["line"], 1), (["line/good.png", "broken.png"], 2)]
)
def test_a_gate_fails_on_anomalies_and_on_pictures_that_nobody_saw(photos, inspector, extra, code):
    (photos / "broken.png").write_bytes(b"no picture")
    assert run("inspect", *extra, "--fail-on-anomaly", "--output", "out") == code


def test_a_gate_stays_shut_for_what_was_passed_over(photos, inspector, capsys, monkeypatch):
    class Found(list):
        passed_over, remark = {"line/a.heic": "no reader"}, "Passed over: 1, not inspected: 'line/a.heic' (no reader)."

    monkeypatch.setattr("modeling_anomalygpt.images.find_pictures", lambda *_, **__: Found(["line/good.png"]))
    for extra, code in (((), 0), (("--fail-on-anomaly",), 2)):
        assert run("inspect", "line", "--references", "reference", "--output", "out", *extra) == code
        err = capsys.readouterr().err
        assert "anomalygpt inspect: Passed over: 1" in err
        assert "anomalygpt inspect: --references: Passed over: 1" in err
    run("chat", "line/good.png", "--references", "reference", "--question", "Where is it?")
    assert "anomalygpt chat: --references: Passed over: 1" in capsys.readouterr().err


def test_bad_pictures_get_rows_and_lines_and_the_others_are_inspected(photos, inspector, capsys):
    for number in range(8):
        draw(photos / "line" / f"{number}.png")
        (photos / "line" / f"{number}.png").write_bytes(b"")
    assert run("inspect", "line", "--references", "reference", "--output", "out") == 0
    assert [row["verdict"] for row in rows_of("out")] == ["error"] * 8 + ["anomalous", "normal"]
    out, err = capsys.readouterr()
    assert err.startswith("anomalygpt inspect: cannot inspect line/0.png: ")
    assert len(err.splitlines()) == 6
    assert "and 3 more" in err
    assert "8 unreadable" in out
    assert run("inspect", "line/0.png", "--references", "reference", "--output", "out") == 2, "nothing was seen"


def test_the_embedded_checkpoint_without_references_says_what_it_lacks(photos, inspector, capsys):
    assert run("inspect", "line", "--output", "out") == 0
    assert "without --references" in capsys.readouterr().err
    assert run("inspect", "line", "--model", "line", "--output", "out") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_an_interrupted_run_says_how_to_go_on_and_does(photos, inspector, capsys, stop):
    inspector.stop_at, inspector.stop_with = 1, stop
    assert run("inspect", "line", "--output", "out") == (130 if isinstance(stop, KeyboardInterrupt) else 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert ". 1 of 2 pictures are finished" in err
    assert "--resume" in err
    assert "Traceback" not in err
    inspector.stop_at = None
    draw(photos / "line" / "bad.png")  # another part since it was judged
    assert run("inspect", "line", "--output", "out", "--resume") == 0
    rows = {row["image"]: row["verdict"] for row in rows_of("out")}
    assert rows == {"line/bad.png": "normal", "line/good.png": "normal"}
    assert pathlib.Path("out/report.html").read_text().count('"picture": "data:image/jpeg') == 2


def test_a_disk_that_is_full_at_the_end_loses_nothing_and_says_how_to_go_on(photos, inspector, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        full = Mock(side_effect=OSError(28, "No space left on device"))
        patch.setattr("modeling_anomalygpt.report.report.InspectionReport.write", full)
        assert run("inspect", "line", "--output", "out") == 2
    err = capsys.readouterr().err
    assert ". 2 of 2 pictures are finished" in err
    assert "--resume" in err
    assert run("inspect", "line", "--output", "out", "--resume") == 0
    assert pathlib.Path("out/report.html").exists()


def test_a_run_that_ended_between_a_result_and_what_is_shown_of_it_still_shows_the_picture(photos, inspector):
    """A kill or a full disk: the row is there, its line in `pictures.jsonl` is not."""
    assert run("inspect", "line", "--output", "out") == 0
    pathlib.Path("out/pictures.jsonl").write_bytes(b'{"image": "line/bad')
    assert run("inspect", "line", "--output", "out", "--resume") == 0
    assert pathlib.Path("out/report.html").read_text().count('"picture": "data:image/jpeg') == 2


def test_maps_that_earlier_runs_did_not_keep_are_counted(photos, inspector, capsys):
    assert run("inspect", "line", "--output", "out") == 0
    assert run("inspect", "line", "--output", "out", "--resume", "--save-maps") == 0
    assert "2 of them were judged before, and no map was kept; without --resume" in capsys.readouterr().err
    assert run("inspect", "line", "--output", "new", "--save-maps") == 0
    assert run("inspect", "line", "--output", "new", "--resume", "--save-maps") == 0
    assert "no map was kept" not in capsys.readouterr().err
    assert len(list(pathlib.Path("new/maps").glob("*.npy"))) == 2


def test_what_is_told_from_the_ground_is_used_shown_and_never_overwritten(photos, inspector, capsys):
    words = ("inspect", "line", "--references", "reference", "--foreground", "auto", "--output", "out")
    assert run(*words) == 0
    assert "30% of the picture count, shown in out/roi_shown.png" in " ".join(capsys.readouterr().err.split())
    found = np.asarray(Image.open("out/roi.png").convert("L")) > 0
    assert np.array_equal(found, inspector.roi)
    shown = np.asarray(Image.open("out/roi_shown.png"))
    assert (shown[found].min(), shown[~found].max()) == (20, 5)
    Image.new("L", (30, 20), 255).save("out/roi.png")  # changed by hand
    assert run(*words, "--resume") == 0
    assert np.asarray(Image.open("out/roi.png")).min() == 255
    assert np.array_equal(np.asarray(Image.open("out/roi_2.png").convert("L")) > 0, found)
    assert run(*words[:4], "--roi", "out/roi.png", "--output", "out_2") == 0
    assert inspector.roi == "out/roi.png"


def test_calibration_says_both_rates_and_wants_its_pictures(photos, inspector, capsys):
    words = ("inspect", "line/good.png", "--references", "reference", "--output", "out", "--max-false-alarm", "0.05")
    assert run(*words) == 2
    assert "`--max-false-alarm` must be given with --calibrate" in capsys.readouterr().err
    assert not pathlib.Path("out").exists()
    assert run(*words, "--calibrate", "line/good.png") == 0
    assert inspector.calibrated == (["line/good.png"], 0.05)
    out = capsys.readouterr().out
    assert "at most 13.9% of good parts are called anomalous, at 95% confidence; 149 would support 5.0%" in out
    assert "--fail-on-anomaly stops uncertain parts as well: 3 of these 20 good pictures (15.0%)" in out


def test_what_was_left_out_or_is_doubtful_is_said_in_one_line_each(photos, inspector, capsys):
    def set_references(*_, **__):
        warnings.warn("Copies of other references\ncount once.", stacklevel=2)

    inspector.set_references = set_references
    run("inspect", "line", "--references", "reference")
    err = capsys.readouterr().err.splitlines()
    assert "anomalygpt: warning: Copies of other references count once." in err


@pytest.mark.parametrize("name", ["😀" * 62, "螺栓" * 41, "a" * 251])
def test_names_of_any_length_get_their_files(photos, inspector, name):
    folder = photos / ("零件" * 40)
    draw(folder / f"{name}.png", True)
    draw(folder / "b" / f"{name}.png", True)
    assert run("inspect", folder, "--output", "out", "--save-maps") == 0
    assert len({path.stem for path in pathlib.Path("out/overlays").iterdir()}) == 2


def test_what_cannot_be_decided_says_why_instead_of_an_answer(photos, inspector, capsys):
    inspector.reasons = (("unlike", "Another part?"), ("few_references", "Four support 53 %."))
    assert run("inspect", "line/bad.png", "--output", "out") == 0
    out = capsys.readouterr().out
    assert "Another part?" in out
    assert "Yes, it is" not in out
    assert "53 %" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "the following arguments are required: QUERY"),
        (["inspect", "missing.png"], "There is no file or folder 'missing.png'"),
        (["inspect", "reference/*.bmp"], "No picture matches 'reference/*.bmp'. Check the pattern, and quote it"),
        (["inspect", "reference/part [1].png"], "In a name with brackets write [[] for each [."),
        (["inspect", "line", "--references", "gone"], "There is no file or folder 'gone'"),
        (["inspect", "line", "--references", "gone.safetensors"], "There is no memory bank 'gone.safetensors'"),
        (
            ["inspect", "line", "--references", "reference", "--save-references", "bolt"],
            "`--save-references` must end in .safetensors, got 'bolt'. Name it bolt.safetensors.",
        ),
        (
            ["inspect", "line", "--references", "reference", "--save-references", "gone/bolt.safetensors"],
            "`--save-references` must be in a folder that exists, got 'gone/bolt.safetensors'. Make the folder.",
        ),
        (["inspect", "line", "--bits", "17"], "must be a whole number from 1 to 16, got '17'"),
        (["inspect", "line", "--mm-per-pixel", "1e7"], "must be at most 1000000, got '1e7'"),
        (["inspect", "line", "--part", "auto", "--batch-size", "2"], "`--batch-size` must be 1 with --part auto"),
        (
            ["chat", "two.tif"],
            "`IMAGE` must be one picture, 'two.tif' has 2 pages. Name a page, as in scan.tif#page=2.",
        ),
        (["inspect", "line", "--bits", "12"], "`--bits` must be given with pictures as --references"),
        (["inspect", "line", "--roi", "line/bad.png"], "`--roi` must be given with pictures as --references"),
        (["inspect", "line", "--foreground", "auto"], "`--foreground` must be given with pictures as --references"),
        (["inspect", "line", "--align"], "`--align` must be given with pictures as --references"),
        (["inspect", "line", "--rotations"], "`--rotations` must be given with pictures as --references"),
        (["inspect", "line", "--presence"], "`--presence` must be given with pictures as --references"),
        (["inspect", "line", "--references", "reference", "--rotations", "--align"], "not allowed with argument"),
        (
            ["inspect", "line", "--references", "reference", "--rotations", "--presence"],
            "`--presence` must stand without --rotations: it needs whole pictures in one pose.",
        ),
        (
            ["inspect", "line", "--references", "reference", "--tile", "512", "--presence"],
            "`--presence` must stand without --tile: it needs whole pictures in one pose.",
        ),
        (
            ["inspect", "line", "--references", "reference", "--rotations", "--foreground", "auto"],
            "`--foreground` must stand without --rotations, whose copies have no fixed region. Try --align.",
        ),
        (["inspect", "line", "--references", "reference", "--roi", "gone.png"], "gone.png"),
        (
            ["inspect", "line", "--references", "reference", "--roi", "small.png"],
            "the first good picture, 30 x 20 pix",
        ),
        (
            ["inspect", "line", "--references", "reference", "--roi", "black.png"],
            "`roi` must mark what counts, got an",
        ),
        (["inspect", "line", "--references", "reference", "--roi", "x", "--foreground", "auto"], "not allowed with"),
        (["inspect", "line", "--output", "line/good.png"], "Cannot write to the output folder 'line/good.png'"),
        (
            ["inspect", "line", "--model", "some/model"],
            "There is no folder 'some/model' here. No connection to the Hub",
        ),
        (["inspect", "line", "--batch-size", "0"], "must be a whole number of at least 1, got '0'"),
        (["inspect", "line", "--mm-per-pixel", "nan"], "must be a number above 0, got 'nan'"),
        (["inspect", "line", "--max-false-alarm", "5"], "must be between 0 and 1, got '5'; 0.02 means 2 %"),
        (["inspect", "line", "--language", "fr"], "invalid choice: 'fr'"),
        (["inspect", "line", "--model", "line"], "config.json"),
        (["inspect", "line", "--model", "nomodel"], "must be a folder or a Hub id (user/name), got 'nomodel', which"),
        (
            ["inspect", "line", "--referense", "x"],
            "unrecognized arguments: --referense x. Did you mean '--references'?",
        ),
        (["inspekt", "line"], "there is no command 'inspekt'. Did you mean 'inspect'?"),
        (["merge", "nofolder", "--output", "x"], "`ADAPTER` must be a folder or a Hub id (user/name), got 'nofolder'"),
        (["demo", "--port", "99999"], "must be a whole number from 1 to 65535, got '99999'"),
        (["demo", "--model", "nomodel"], "got 'nomodel', which does not exist"),
        (["evaluate", "--dataset", "rendered_parts", "--output", "x", "--model", "no"], "got 'no', which does not"),
        (["chat"], "the following arguments are required: IMAGE"),
        (["chat", "missing.png"], "missing.png"),
        (["--model", "x"], "unrecognized arguments: --model x"),
    ],
)
def test_wrong_usage_gives_one_line_and_code_2(photos, capsys, arguments, message):
    for name, size in (("small.png", (3, 2)), ("black.png", (30, 20))):
        Image.new("L", size).save(photos / name)
    Image.new("L", (30, 20)).save(photos / "two.tif", save_all=True, append_images=[Image.new("L", (30, 20), 9)])
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_export_looks_for_its_packages_before_it_loads_a_model(photos, capsys, monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.inspector.AnomalyInspector.from_pretrained", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run("export", "x.onnx") == 2
    assert "error: An export to ONNX needs onnx, onnxscript, onnxruntime. Run: pip" in capsys.readouterr().err


def test_unexpected_failures_are_one_line_unless_debugging(photos, inspector, capsys, monkeypatch):
    def broken(*_, **__):
        raise KeyError("layer\nmore")

    monkeypatch.setattr(inspector, "set_references", broken)
    assert run("inspect", "line", "--references", "reference", "--output", "out") == 2
    assert capsys.readouterr().err == "anomalygpt inspect: error: KeyError: 'layer\\nmore'\n"
    monkeypatch.setenv("ANOMALYGPT_DEBUG", "1")
    with pytest.raises(KeyError):
        run("inspect", "line", "--references", "reference", "--output", "out")


def test_failures_are_described_for_people(monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.errors.constants.HF_HOME", "/nobody/cache")
    for error, line in (
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x"),
        (PermissionError(13, "Permission denied", "/nobody/cache/hub"),
         "Permission denied: /nobody/cache/hub. Set HF_HOME to a folder that you may write to."),
        (PermissionError(13, "Permission denied", "/nobody"),
         "Permission denied: /nobody. Set HF_HOME to a folder that you may write to."),
        (RuntimeError("CUDA error\nstack"), "CUDA error"),
        (ImportError("An export needs onnx."), "An export needs onnx."),
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
        (AssertionError(), "AssertionError"),
    ):  # fmt: skip
        assert describe_error(error) == line
    assert describe_error(MemoryError()).startswith("Not enough memory.")


def test_a_memory_bank_may_stand_for_the_references(photos, inspector):
    save_file({"x": torch.zeros(1)}, photos / "bank.safetensors")  # the inspector here is one that reads none
    assert run("inspect", "line", "--references", "bank.safetensors", "--output", "out") == 0
    assert inspector.references == ("bank.safetensors", {"category": None, "description": None})


def test_a_long_table_on_a_terminal_leaves_the_normal_ones_out(photos, inspector, capsys, monkeypatch):
    monkeypatch.setattr(cli_inspect, "TERMINAL_ROWS", 1)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("inspect", "line", "--output", "out") == 0
    out = capsys.readouterr().out
    assert "... and 1 more in results.csv" in out
    assert "good.png" not in out


def test_tables_are_aligned_also_with_chinese_and_cut_to_the_width():
    lines = format_table(
        ["picture", "answer"], [["a/long/path/to/picture_1.png", "是的，图像中有异常。"], ["b.png", "No."]], 34,
        stretch=(1, 0),
    )  # fmt: skip
    assert max(map(text_width, lines)) <= 34
    assert lines[2].startswith("...")
    assert lines[2].split("  ")[0].endswith("picture_1.png")
    assert lines[2].endswith("...")
    column = text_width(lines[0][: lines[0].index("answer")])
    assert text_width(lines[2][: lines[2].index("是")]) == column == lines[3].index("No.")
    assert format_table(["a", "b", "c"], [["1", "", "3"], ["4", "", ""]])[0] == "a  c", "b has no entry"
    assert format_table(["x"], [["\x1b[31mred\nline"]])[2] == "?[31mred line", "no control characters"


def test_a_chat_answers_each_line_until_it_ends(photos, inspector, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is it?\n\nno mark\nexit\nnever?\n"))
    assert run("chat", "line/bad.png", "--references", "reference", "--language", "zh") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "异常: 中央 · 热图得分 0.980 · 对数几率 +3.00", "Yes, it is bright.", "It is in the middle.",
    ]  # fmt: skip
    assert out.count("It is in the middle.") == 1
    assert "`question` must end with a question mark." in err
    assert inspector.calls[0]["language"] == "zh"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("chat", "line/good.png") == 0


def test_every_command_explains_itself_and_its_examples_can_be_parsed(capsys):
    assert run("--help") == 0
    listed = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n    {name}" in listed
        assert run(name, "--help") == 0
        assert capsys.readouterr().out.startswith(f"usage: anomalygpt {name}")
        parser = argparse.ArgumentParser()
        importlib.import_module(f"modeling_anomalygpt.cli.{name.replace('-', '_')}").add_arguments(parser)
        text = (HELP / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", "")
        lines = [line.split(f"anomalygpt {name}")[1] for line in text.splitlines() if f"  anomalygpt {name}" in line]
        assert lines
        for line in lines:
            words = shlex.split(line.split("&&")[0], comments=True)
            (parser.parse_known_args if name == "train" else parser.parse_args)(words)


def test_no_command_shows_the_help_and_the_version_is_printed(capsys):
    assert run() == 2
    assert "commands:" in capsys.readouterr().err
    assert run("--version") == 0
    assert capsys.readouterr().out == f"anomalygpt {modeling_anomalygpt.__version__}\n"


def test_help_is_answered_at_once_without_heavy_imports():
    code = (
        "import sys; from modeling_anomalygpt.cli import COMMANDS, main; "
        "assert main(['--help']) == 0 and not any(main([name, '--help']) for name in COMMANDS); "
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'cv2', 'datasets', 'datasets_scripts'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    start = sum(os.times()[2:4])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Processor time, so that a busy machine does not fail the test.
    assert sum(os.times()[2:4]) - start < 0.7


def test_a_verdict_imports_what_one_picture_needs_and_nobody_on_the_network_is_asked(tmp_path):
    code = """
import gc, io, os, sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, arguments))
        raise OSError("the network was asked")
sys.addaudithook(hook)
os.environ.pop("HF_HUB_OFFLINE", None)
import modeling_anomalygpt
dir(modeling_anomalygpt)
print(sorted({"torch", "transformers", "datasets", "gradio", "cv2"} & set(sys.modules)))
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
from modeling_anomalygpt import AnomalyInspector
during = len(runs)
gc.collect(0)
assert during < 20 and len(runs) == during + 2, "hundreds of collections"
from modeling_anomalygpt.cli import main
folder = REPOSITORY + "/examples/capsules"
picture, good = folder + "/query/part_1_good.jpg", folder + "/good/good_1.jpg"
assert main(["inspect", picture, "--references", good, "--output", "out"]) == 0
idle = {"datasets", "evaluate", "gradio", "onnx", "onnxruntime", "pandas", "peft", "sklearn", "tensorboard",
        "torchvision", "watchdog", "modeling_anomalygpt.training", "modeling_anomalygpt.synthesis",
        "modeling_anomalygpt.evaluation", "modeling_anomalygpt.hub", "modeling_anomalygpt.line"}
import torch
print(sorted(idle & set(sys.modules)), gc.get_freeze_count() > 100_000, gc.isenabled(), torch.cuda.is_initialized())
sys.stdin = io.StringIO("Where?\\n")
assert main(["chat", picture]) == 0
for name in modeling_anomalygpt.__all__:
    getattr(modeling_anomalygpt, name)
print(asked)
"""
    printed = run_python(code, cwd=tmp_path, environment={"HF_HOME": str(tmp_path / "home")}).splitlines()
    assert printed[0] == printed[-1] == "[]"
    assert "[] True True False" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert not [line for line in page.splitlines() if 'src="http' in line or "url(http" in line]


# A command that prints more than a pipe holds, to both streams where it gets a word, and works on after that.
PRINTING = """
import pathlib, sys
from modeling_anomalygpt.cli import main, inspect

def run(args):
    for number in range(9999):
        print(number, flush=True)
        print(number, file=sys.stderr) if sys.argv[1:] else None
    sys.stdout.close()
    print("after the end")
    pathlib.Path("done").touch()
    return 1

inspect.run = run
sys.exit(main(["inspect", "x"]))
"""


@pytest.mark.parametrize(
    ("ending", "out", "err"),
    [
        ("| head -1", "0\n", ""),
        ("both 2>&1 | true", "", ""),
        (">&-", "", ""),
        ("both >&- 2>&-", "", ""),
        ("> /dev/full", "", "anomalygpt: what is printed is lost: No space left on device.\n"),
        ("both > /dev/full 2>&1", "", ""),
    ],
)
def test_work_goes_on_and_its_exit_code_is_true_whoever_reads_what_is_printed(tmp_path, ending, out, err):
    if "/dev/full" in ending and not os.path.exists("/dev/full"):
        pytest.skip("there is no disk that is always full")
    command = f'{sys.executable} -c "$CODE" {ending}; exit ${{PIPESTATUS[0]}}'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CODE": PRINTING}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, out, err)
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_gate_stays_shut_and_the_report_is_written_where_nothing_can_be_printed(photos, place):
    words = ("inspect", "line", "--references", "reference", "--device", "cpu", "--fail-on-anomaly", "--output", "out")
    child = os.fork()
    if child == 0:  # as a shell begins a command with >&- 2>&-
        code, sys.stdout, sys.stderr = 7, None, None
        os.closerange(1, 3)
        try:
            code = run(*words, "--model", place / "model")
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert pathlib.Path("out/report.html").exists()


def test_pictures_that_are_references_themselves_are_named(photos, inspector, capsys):
    os.symlink(photos / "reference" / "1.png", photos / "line" / "again.png")
    assert run("inspect", "line", "--references", "reference", "--output", "out") == 0
    assert "1 of 3 pictures are references themselves (line/again.png)" in capsys.readouterr().err


def test_results_that_a_program_is_writing_are_not_put_aside(photos, inspector, capsys):
    assert run("inspect", "line", "--output", "out") == 0
    rows = ResultsFile("out/results.jsonl", resume=True)
    assert run("inspect", "line/good.png", "--output", "out") == 2
    assert "'out' is being written by another run" in capsys.readouterr().err
    rows.close()
    assert [row["image"] for row in rows_of("out")] == ["line/bad.png", "line/good.png"]
    assert not pathlib.Path("out/previous").exists()


def test_a_real_checkpoint_inspects_resumes_and_chats(photos, place, capsys, monkeypatch):
    arguments = ["inspect", "line", "--references", "reference", "--model", place / "model", "--device", "cpu"]
    assert run(*arguments, "--output", "out", "--tile", 32, "--batch-size", 2) == 0, capsys.readouterr().err
    first = rows_of("out")
    assert {row["verdict"] for row in first} <= {"normal", "anomalous", "uncertain"}
    assert run(*arguments, "--output", "out", "--tile", 32, "--resume") == 0
    assert rows_of("out") == first
    assert capsys.readouterr().err == ""
    assert run(*arguments, "--output", "out", "--resume") == 2
    assert "was made with another model, references" in capsys.readouterr().err
    assert run(*arguments, "--output", "caught", "--tile", 32, "--prefer", "catch") == 0
    scores = [[row["evidence"]["decision_score"] for row in rows] for rows in (first, rows_of("caught"))]
    assert np.subtract(scores[1], scores[0]) == pytest.approx(-np.log(0.905), abs=1e-3)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n"))
    assert run("chat", "line/bad.png", *arguments[4:]) == 0
    assert "map score" in capsys.readouterr().out
    (photos / "bank.safetensors").write_bytes(b"junk")
    for extra in (["--device", "nowhere"], ["--references", "bank.safetensors"]):
        assert run(*arguments, "--output", "out", *extra) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_threads_of_a_command_wait_without_spinning(monkeypatch):
    """Else one other busy process makes every small operation wait for its turn."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
