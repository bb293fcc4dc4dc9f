"""The command: run as a user runs it, with a stand-in for the inspector; once with a real random checkpoint."""

import io
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import chat as cli_chat
from modeling_anomalygpt.cli import inspect as cli_inspect
from modeling_anomalygpt.cli import options as cli_model_options
from modeling_anomalygpt.cli.options import format_table, text_width
from modeling_anomalygpt.errors import describe_error
from modeling_anomalygpt.images import PictureError, load_picture
from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.results import InspectionResult, ResultsFile

from .tiny import tiny_pair

ROOT = pathlib.Path(__file__).parents[1]


class StandIn:
    """Calls a picture anomalous when its middle is bright; stops where a test wants it to."""

    region_threshold = 0.5
    stop_at, stop_with = None, None

    def __init__(self):
        self.calls, self.references = [], None

    def set_references(self, pictures, **options):
        self.references = [load_picture(picture).size for picture in pictures], options

    def load_references(self, path, **options):
        self.references = path, options

    def inspect(self, picture, **options):
        self.calls.append(options)
        return self._result(picture, load_picture(picture), options)

    def inspect_many(self, pictures, batch_size=1, progress=True, results_file=None, resume=False, **options):
        self.calls.append(options | {"batch_size": batch_size})
        rows = ResultsFile(results_file, resume)
        for number, picture in enumerate(pictures):
            if number == self.stop_at:
                raise self.stop_with
            if picture in rows.finished:
                rows.finished[picture].evidence["resumed"] = True
                yield rows.finished[picture]
                continue
            try:
                result = self._result(picture, load_picture(picture), options)
            except (PictureError, OSError) as error:
                result = InspectionResult(picture, "error", error=str(error))
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
        return InspectionResult(
            path, "anomalous" if anomalous else "normal", score, odds, answer, regions, anomaly_map
        )


@pytest.fixture
def inspector(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr("modeling_anomalygpt.inspector.AnomalyInspector.from_pretrained", lambda *a, **k: stand_in)
    return stand_in


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name, bright in (("line/good.png", False), ("line/bad.png", True), ("reference/1.png", False)):
        pixels = np.full((20, 30), 20, dtype=np.uint8)
        pixels[8:12, 13:18] = 250 if bright else 20
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
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
    assert list(rows_of("out")[0])[:8] == [
        "image", "verdict", "pred_score", "log_odds", "answer", "regions", "seconds", "error",
    ]  # fmt: skip
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
        "inspect", "line/*.png", "--model", "folder", "--tile", 64, "--device", "cpu", "--dtype", "bfloat16",
        "--language", "zh", "--question", "有吗？", "--description", "圆的", "--no-language", "--mm-per-pixel", "0.5",
        "--batch-size", 3, "--output", "out",
    )  # fmt: skip
    assert code == 0
    assert loaded == {"model": "folder", "device": "cpu", "dtype": "bfloat16", "tile": 64}
    assert inspector.calls == [
        {
            "batch_size": 3, "question": "有吗？", "language": "zh", "category": None, "description": "圆的",
            "use_language": False, "mm_per_pixel": 0.5,
        }
    ]  # fmt: skip
    assert rows_of("out")[0]["regions"][0]["width_mm"] == 2.5
    assert rows_of("out")[0]["log_odds"] is None


def test_maps_are_written_on_request(photos, inspector):
    assert run("inspect", "line", "--save-maps", "--output", "out") == 0
    assert np.load("out/maps/bad.npy").shape == (20, 30)


def test_without_an_output_folder_a_new_one_is_taken_each_time(photos, inspector):
    assert run("inspect", "line/good.png") == 0
    assert run("inspect", "line/bad.png") == 0
    assert [rows_of(name)[0]["image"] for name in ("anomalygpt_results", "anomalygpt_results_2")] == [
        "line/good.png",
        "line/bad.png",
    ]
    assert cli_inspect.choose_folder(None, resume=True).name == "anomalygpt_results_2"
    assert cli_inspect.choose_folder(None, resume=False).name == "anomalygpt_results_3"


def test_results_of_an_earlier_run_are_put_aside_and_never_lost(photos, inspector):
    assert run("inspect", "line/good.png", "--output", "out") == 0
    assert run("inspect", "line/bad.png", "--output", "out") == 0
    assert [row["image"] for row in rows_of("out")] == ["line/bad.png"]
    assert "line/good.png" in pathlib.Path("out/results.previous.jsonl").read_text()


def test_an_output_folder_among_the_pictures_is_not_inspected(photos, inspector):
    assert run("inspect", "line", "--output", "line/out") == 0
    assert run("inspect", "line", "--output", "line/out") == 0
    assert len(rows_of("line/out")) == 2


@pytest.mark.parametrize(
    ("extra", "code"), [(["line/good.png"], 0), (["line"], 1), (["line/good.png", "broken.png"], 2)]
)
def test_a_gate_fails_on_anomalies_and_on_pictures_that_nobody_saw(photos, inspector, extra, code):
    (photos / "broken.png").write_bytes(b"no picture")
    assert run("inspect", *extra, "--fail-on-anomaly", "--output", "out") == code


def test_a_bad_picture_gets_a_row_and_a_line_and_the_others_are_inspected(photos, inspector, capsys):
    (photos / "line" / "broken.png").write_bytes(b"")
    assert run("inspect", "line", "--references", "reference", "--output", "out") == 0
    assert [row["verdict"] for row in rows_of("out")] == ["anomalous", "error", "normal"]
    out, err = capsys.readouterr()
    assert err.startswith("anomalygpt inspect: cannot inspect line/broken.png: ")
    assert len(err.splitlines()) == 1
    assert "1 unreadable" in out


def test_the_embedded_checkpoint_without_references_says_what_it_lacks(photos, inspector, capsys):
    assert run("inspect", "line", "--output", "out") == 0
    assert "without --references it calls most photographs normal" in capsys.readouterr().err
    assert run("inspect", "line", "--model", "other", "--output", "out") == 0
    assert capsys.readouterr().err == ""


def test_when_no_picture_can_be_read_the_code_is_2(photos, inspector, capsys):
    (photos / "broken").mkdir()
    for number in range(8):
        (photos / "broken" / f"{number}.png").write_bytes(b"")
    assert run("inspect", "broken", "--references", "reference", "--output", "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert "and 3 more" in lines[-1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_an_interrupted_run_says_how_to_go_on_and_does(photos, inspector, capsys, stop):
    inspector.stop_at, inspector.stop_with = 1, stop
    assert run("inspect", "line", "--output", "out") == (130 if isinstance(stop, KeyboardInterrupt) else 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 2 pictures are finished" in err
    assert "--resume" in err
    assert "Traceback" not in err
    inspector.stop_at = None
    assert run("inspect", "line", "--output", "out", "--resume") == 0
    assert [row["image"] for row in rows_of("out")] == ["line/bad.png", "line/good.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "the following arguments are required: QUERY"),
        (["inspect", "missing.png"], "There is no file or folder 'missing.png'"),
        (["inspect", "reference/*.bmp"], "No picture matches 'reference/*.bmp'"),
        (["inspect", "line", "--references", "gone"], "There is no file or folder 'gone'"),
        (["inspect", "line", "--references", "gone.safetensors"], "There is no memory bank 'gone.safetensors'"),
        (["inspect", "line", "--output", "line/good.png"], "Cannot write to the output folder 'line/good.png'"),
        (["inspect", "line", "--output", "line/good.png/x"], "Cannot write to the output folder 'line/good.png/x'"),
        (["inspect", "line", "--batch-size", "0"], "must be a whole number of at least 1, got '0'"),
        (["inspect", "line", "--mm-per-pixel", "nan"], "must be a number above 0, got 'nan'"),
        (["inspect", "line", "--tile", "8"], "must be at least 32 pixels, got '8'"),
        (["inspect", "line", "--language", "fr"], "invalid choice: 'fr'"),
        (["inspect", "line", "--model", "line"], "Cannot load the checkpoint|config.json"),
        (["inspekt", "line"], "there is no command 'inspekt' (did you mean 'inspect'?)"),
        (["chat"], "the following arguments are required: IMAGE"),
        (["chat", "missing.png"], "missing.png"),
        (["--model", "x"], "unrecognized arguments: --model x"),
    ],
)
def test_wrong_usage_gives_one_line_and_code_2(photos, capsys, arguments, message):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert any(part in err for part in message.split("|")), err
    assert len(err.strip().splitlines()) == 1


def test_unexpected_failures_are_one_line_unless_debugging(photos, inspector, capsys, monkeypatch):
    def broken(*_, **__):
        raise KeyError("layer\nmore")

    monkeypatch.setattr(inspector, "set_references", broken)
    assert run("inspect", "line", "--references", "reference", "--output", "out") == 2
    assert capsys.readouterr().err == "anomalygpt inspect: error: KeyError: 'layer\\nmore'\n"
    monkeypatch.setenv("ANOMALYGPT_DEBUG", "1")
    with pytest.raises(KeyError):
        run("inspect", "line", "--references", "reference", "--output", "out")


def test_failures_are_described_for_people():
    assert describe_error(PermissionError(13, "Permission denied", "/x")) == "Permission denied: /x"
    assert describe_error(MemoryError()).startswith("Not enough memory.")
    assert describe_error(RuntimeError("CUDA error\nstack")) == "CUDA error"
    assert describe_error(AssertionError()) == "AssertionError"


def test_a_memory_bank_may_stand_for_the_references(photos, inspector):
    (photos / "bank.safetensors").write_bytes(b"")
    assert run("inspect", "line", "--references", "bank.safetensors", "--output", "out") == 0
    assert inspector.references == ("bank.safetensors", {"category": "object", "description": None})


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
    assert text_width(lines[2][: lines[2].index("是")]) == column
    assert lines[3].index("No.") == column


def test_a_table_holds_no_control_characters():
    assert format_table(["x"], [["\x1b[31mred\nline"]])[2] == "?[31mred line"


def test_a_chat_answers_each_line_until_it_ends(photos, inspector, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is it?\n\nno mark\nexit\nnever?\n"))
    assert run("chat", "line/bad.png", "--references", "reference", "--language", "zh") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "异常: 中央 · 热图得分 0.980 · 对数几率 +3.00",
        "Yes, it is bright.",
        "It is in the middle.",
    ]
    assert out.count("It is in the middle.") == 1
    assert "`question` must end with a question mark." in err
    assert inspector.calls[0]["language"] == "zh"


def test_a_chat_ends_with_the_input(photos, inspector, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("chat", "line/good.png") == 0


def test_every_command_that_is_listed_exists_and_explains_itself(capsys):
    for name in cli.COMMANDS:
        assert run(name, "--help") == 0
        assert capsys.readouterr().out.startswith(f"usage: anomalygpt {name}")
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    for module in (cli_inspect, cli_chat):
        assert "examples:" in module.EPILOG


def test_the_examples_in_the_help_can_be_parsed():
    import argparse
    import shlex

    for name, module in (("inspect", cli_inspect), ("chat", cli_chat)):
        parser = argparse.ArgumentParser()
        getattr(module, f"add_{name}_arguments")(parser)
        lines = [line for line in module.EPILOG.splitlines() if f"anomalygpt {name} " in line]
        assert len(lines) >= 3
        for line in lines:
            parser.parse_args(shlex.split(line.split(f"anomalygpt {name} ")[1].split("&&")[0]))


def test_no_command_shows_the_help_and_is_wrong_usage(capsys):
    assert run() == 2
    assert "commands:" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    from modeling_anomalygpt import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out == f"anomalygpt {__version__}\n"


def test_help_is_answered_at_once_without_heavy_imports():
    code = (
        "import sys; from modeling_anomalygpt.cli import main; "
        "assert main(['--help']) == 0 and main(['inspect', '--help']) == 0; "
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'cv2', 'datasets'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    start = time.process_time() + sum(os.times()[2:4])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Processor time, so that a busy machine does not fail the test.
    assert time.process_time() + sum(os.times()[2:4]) - start < 0.5


def test_a_closed_pipe_is_no_failure():
    done = subprocess.run(
        f"{sys.executable} -m modeling_anomalygpt.cli inspect --help | head -1",
        shell=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage:")
    assert done.stderr == ""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_pair():
        part.save_pretrained(folder)
    return folder


def test_a_real_checkpoint_inspects_and_resumes(photos, checkpoint, capsys):
    arguments = ["inspect", "line", "--references", "reference", "--model", checkpoint, "--device", "cpu"]
    assert run(*arguments, "--output", "out", "--tile", 32, "--batch-size", 2) == 0, capsys.readouterr().err
    first = rows_of("out")
    assert {row["verdict"] for row in first} <= {"normal", "anomalous"}
    assert run(*arguments, "--output", "out", "--resume") == 0
    assert rows_of("out") == first
    assert capsys.readouterr().err == ""


def test_a_real_checkpoint_holds_a_chat(photos, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n"))
    assert run("chat", "line/bad.png", "--model", checkpoint, "--device", "cpu") == 0
    assert "map score" in capsys.readouterr().out


def test_a_wrong_device_or_bank_of_another_encoder_is_one_line(photos, checkpoint, capsys):
    (photos / "bank.safetensors").write_bytes(b"junk")
    for extra in (["--device", "nowhere"], ["--references", "bank.safetensors"]):
        assert run("inspect", "line", "--model", checkpoint, "--output", "out", *extra) == 2
        err = capsys.readouterr().err
        assert len(err.strip().splitlines()) == 1, err


def test_options_for_numbers_are_checked():
    assert cli_model_options.count("3") == 3
    assert cli_model_options.positive("0.25") == 0.25
    assert cli_model_options.tile_side("448") == 448
