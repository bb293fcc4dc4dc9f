"""The metrics as modules of the `evaluate` library: loaded from their folders, in one process and in two."""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.clean_process import REPOSITORY

evaluate = pytest.importorskip("evaluate")

FOLDER = REPOSITORY / "evaluate_modules"
NAMES = ("anomaly_image_metrics", "anomaly_pixel_metrics")
TWO = """
import sys

sys.modules["transformers"] = None  # loaded by `evaluate`, and torch with it; the metrics need neither

import evaluate

del sys.modules["transformers"]

cache, process, *paths = sys.argv[1:]
process = int(process)
for path in paths:
    metric = evaluate.load(
        path, num_process=2, process_id=process, experiment_id="two", cache_dir=cache, keep_in_memory=False
    )
    scores, labels = [[0.1, 0.6], [0.5, 0.9]][process], [[0, 0], [1, 1]][process]
    if "pixel" in path:
        scores, labels = [[scores]], [[labels]]
    metric.add_batch(predictions=scores, references=labels)
    print(metric.compute())
"""


@pytest.fixture
def load(tmp_path):
    return lambda name, *arguments, **options: evaluate.load(
        str(FOLDER / name), *arguments, cache_dir=str(tmp_path), **options
    )


def pictures(seed=0):
    """Maps of three sizes and their masks; the last picture is good."""
    random = np.random.default_rng(seed)
    masks = [random.random(size) < 0.3 for size in ((12, 9), (7, 20), (15, 15))]
    masks[-1][:] = False
    return [(random.random(mask.shape) + 0.4 * mask).astype(np.float32) for mask in masks], masks


def test_configurations_take_verdicts_and_log_odds_and_an_object_computes_again(load):
    metric = load("anomaly_image_metrics", "verdicts_and_log_odds")
    metric.add(prediction=0.1, reference=0, verdicts="normal", log_odds=-2.0)
    metric.add_batch(
        predictions=[0.6, 0.5, 0.9],
        references=[0, 1, 1],
        verdicts=["anomalous", "uncertain", "anomalous"],
        log_odds=[-1.0, 0.5, 2.0],
    )
    found = metric.compute()
    assert (found["false_alarm_rate"], found["miss_rate"], found["uncertain_rate"]) == (0.5, 0, 0.25)
    assert found["accuracy_log_odds"] == 1
    again = {"predictions": [0.9, 0.1], "references": [0, 1], "verdicts": ["anomalous"] * 2, "log_odds": [1.0, 1.0]}
    found = metric.compute(**again)
    assert (found["image_auroc"], found["miss_rate"], found["auroc_log_odds"]) == (0, 0, 0.5)
    with pytest.raises(ValueError, match="`config_name` must be among default, verdicts.*got 'answers'"):
        load("anomaly_image_metrics", "answers")


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float64, list])
def test_pixel_metrics_of_pictures_of_several_sizes_agree_with_scikit_learn(load, kind):
    maps, masks = pictures()
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    if kind is list:
        given = [mask.astype(int).tolist() for mask in masks]
    else:
        # 255 as in picture files; a half as resizing leaves it: anomalous is what is not zero.
        given = [mask.astype(kind) * {np.bool_: True, np.uint8: 255, np.float64: 0.5}[kind] for mask in masks]
    metric = load("anomaly_pixel_metrics")
    metric.add_batch(predictions=maps[:2], references=given[:2])
    metric.add(prediction=maps[2], reference=given[2])
    found = metric.compute(limits=(0.2,))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert found["pixel_average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-4)
    assert 0 < found["aupro_0.2"] < 1


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("anomaly_image_metrics", [0.1, 0.9], [1, 1], "AUROC is undefined: there are 0 normal and 2 anomalous"),
        ("anomaly_image_metrics", [0.1, 0.9], [0, 0.7], "`labels` must be a list of 0 .normal. and 1 .* got 0.7"),
        ("anomaly_image_metrics", [0.1, float("nan")], [0, 1], "`scores` must be a list of finite numbers"),
        ("anomaly_pixel_metrics", [[[0.1, 0.9]]], [[[0, 0]]], "masks of 1 pictures hold no anomalous pixels"),
        ("anomaly_pixel_metrics", [[[0.1, 0.9]]], [[[0], [1]]], "must be pictures of one size"),
        ("anomaly_pixel_metrics", [[[0.1, float("nan")]]], [[[0, 1]]], "`maps` must hold finite scores"),
    ],
)
def test_what_cannot_be_measured_is_said(load, name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(predictions=predictions, references=references)


@pytest.mark.slow
def test_two_processes_are_measured_as_one(tmp_path):
    command, paths = [sys.executable, "-c", TWO, str(tmp_path)], [str(FOLDER / name) for name in NAMES]
    started = [
        subprocess.Popen([*command, process, *paths], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for process in "01"
    ]
    first, second = (process.communicate(timeout=120)[0].splitlines() for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert ["auroc': 0.75" in line for line in first] == [True, True]
    assert second == ["None", "None"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_the_space_computes_what_its_table_holds(name, monkeypatch):
    gradio = pytest.importorskip("gradio")
    pandas = pytest.importorskip("pandas")
    from evaluate.utils import launch_gradio_widget

    shown = []
    monkeypatch.setattr(gradio.Interface, "launch", lambda page: shown.append(page))
    monkeypatch.setattr(sys, "path", [str(FOLDER / name), *sys.path])
    source = (FOLDER / name / "app.py").read_text(encoding="utf-8")
    for attribute in ("inputs", "outputs"):
        monkeypatch.setattr(gradio, attribute, None, raising=False)
    exec(compile(source, "app.py", "exec"), {"__name__": "__main__", "__file__": str(FOLDER / name / "app.py")})
    assert launch_gradio_widget
    page = shown[0]
    rows = (
        [[0.1, 0], [0.6, 0], [0.5, 1], [0.9, 1]] if "image" in name else [["[[0.1, 0.6, 0.5, 0.9]]", "[[0, 0, 1, 1]]"]]
    )
    table = pandas.DataFrame(rows, columns=["predictions", "references"])
    assert 0.75 in page.fn(table).values()
    assert "---" not in page.article[:10]


def test_the_folders_hide_no_metric_of_others_and_are_carried_by_the_package(tmp_path):
    """`evaluate` copies what it loads into a package of this very name; one with an `__init__.py` would come first."""
    assert not (FOLDER / "__init__.py").exists()
    (tmp_path / "other.py").write_text((FOLDER / NAMES[0] / f"{NAMES[0]}.py").read_text(encoding="utf-8"))
    metric = evaluate.load(str(tmp_path / "other.py"), cache_dir=str(tmp_path))
    assert type(metric).__module__.startswith("evaluate_modules.metrics.other")
    patterns = ["README.md", "*/*.py", "*/*.md", "*/*.txt"]
    assert f'"evaluate_modules": {json.dumps(patterns)}' in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    carried = {path for pattern in patterns for path in FOLDER.glob(pattern)}
    assert {path for name in NAMES for path in (FOLDER / name).iterdir() if path.is_file()} <= carried


def test_a_space_with_the_files_of_the_readme_imports_its_metric(tmp_path):
    (line,) = (one for one in (FOLDER / "README.md").read_text().splitlines() if one.startswith("files = "))
    for name in ast.literal_eval(line.removeprefix("files = ")):
        target = tmp_path / "modeling_anomalygpt" / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / "modeling_anomalygpt" / f"{name}.py", target)
    imports = "from modeling_anomalygpt.evaluation.metrics import ImageMetrics, PixelMetrics; print(ImageMetrics)"
    subprocess.run([sys.executable, "-c", imports], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True)
