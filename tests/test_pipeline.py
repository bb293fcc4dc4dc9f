"""The pipeline "anomaly-detection" and the endpoint: the inspector's verdicts, as dictionaries and as JSON."""

import base64
import functools
import http.server
import io
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_anomalygpt import AnomalyDetectionPipeline
from modeling_anomalygpt.handler import EndpointHandler
from modeling_anomalygpt.images import PictureError
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import CallCounter, tiny_pair
from tests.tiny_processor import picture

pytestmark = pytest.mark.usefixtures("short_answers")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Says nothing."""


GOOD, QUERY = Image.fromarray(picture(0, (40, 60))), Image.fromarray(picture(1, (30, 50)))
VARIES = ("seconds", "image")


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory) -> pathlib.Path:
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("pipe") / "model")
    QUERY.save(folder / "query.png")
    GOOD.save(folder / "good.png")
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    assert AnomalyDetectionPipeline is not None  # using the name registers the task
    return pipeline("anomaly-detection", model=str(folder), device="cpu")


@pytest.fixture
def pipe(loaded) -> AnomalyDetectionPipeline:
    """One that has seen nothing."""
    return AnomalyDetectionPipeline(loaded.model, processor=loaded.processor, device="cpu")


def plain(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in (*VARIES, "anomaly_map", "mask")}


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_it_says_what_the_inspector_says_and_is_ready_for_json(pipe, folder):
    inspector = AnomalyInspector(pipe.model, pipe.processor)
    inspector.set_references([GOOD], category="bolt")
    expected = inspector.inspect(QUERY, category="bolt", mm_per_pixel=0.1)
    found = pipe(str(folder / "query.png"), references=[GOOD], category="bolt", mm_per_pixel=0.1)
    assert plain(found) == plain(expected.to_dict())
    assert found["image"] == str(folder / "query.png")
    assert json.loads(json.dumps(plain(found)))["verdict"] in ("normal", "anomalous", "uncertain")
    assert (found["anomaly_map"].mode, found["anomaly_map"].size) == ("L", (50, 30))
    assert np.abs(np.asarray(found["anomaly_map"]) / 255 - expected.anomaly_map).max() <= 0.5 / 255 + 1e-6
    assert inspector.region_threshold == pytest.approx(expected.evidence["region_threshold"], abs=1e-6)
    inside = expected.anomaly_map >= expected.evidence["region_threshold"]
    assert np.array_equal(np.asarray(found["mask"]) == 255, inside)


def test_the_mask_is_of_the_kind_of_map_that_was_asked_for(pipe, monkeypatch):
    # From words; references bring a limit of their own.
    monkeypatch.setattr(pipe.model.config, "decision", {"region_threshold": 0.9})
    found = pipe(QUERY, references=[GOOD], category="bolt", localization="text")
    assert found["evidence"]["region_threshold"] == 0.9
    values = np.asarray(found["anomaly_map"])
    clear = np.abs(values / 255.0 - 0.9) > 0.01  # the grey picture is rounded
    assert np.array_equal((np.asarray(found["mask"]) == 255)[clear], (values / 255.0 >= 0.9)[clear])
    assert pipe(QUERY, localization="reference")["evidence"]["region_threshold"] != 0.9


@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_pictures_at_once_give_what_each_gives(pipe, batch_size):
    pictures = [QUERY, GOOD, picture(5, (33, 20))]
    each = [plain(pipe(one, references=[GOOD], answer=False)) for one in pictures]
    many = pipe(pictures, references=[GOOD], answer=False, batch_size=batch_size)
    assert len(many) == 3
    for one, other in zip(many, each, strict=True):
        assert one["verdict"] == other["verdict"]
        assert one["pred_score"] == pytest.approx(other["pred_score"], abs=1e-5)
        assert one["log_odds"] == pytest.approx(other["log_odds"], abs=1e-3)


def test_references_are_looked_at_once_and_can_be_forgotten(pipe):
    pipe(GOOD, references=[GOOD], answer=False)
    with CallCounter(pipe.model.model.vision_tower) as tower:
        pipe(GOOD, references=[GOOD], answer=False)
        pipe(GOOD, answer=False)
        assert tower.calls == 2
        assert pipe(QUERY, answer=False)["evidence"]["localization"] == "few_shot"
    assert pipe(QUERY, references=[], answer=False)["evidence"]["localization"] == "text_guided"


def test_references_may_be_mixed_and_are_looked_at_again_when_they_changed(pipe, folder, tmp_path):
    path, frame = tmp_path / "good.png", np.array(GOOD)
    Image.fromarray(picture(7, (40, 60))).save(path)
    references = [path, str(folder / "good.png"), frame, GOOD]
    with CallCounter(pipe.model.model.vision_tower) as tower:
        first = pipe(QUERY, references=references, use_language=False)
        before = tower.calls
        assert plain(pipe(QUERY, references=references, use_language=False)) == plain(first)
        assert tower.calls == before + 1
        QUERY.save(path)  # the same name
        other = pipe(QUERY, references=references, use_language=False)
        assert other["pred_score"] < 1e-3 < first["pred_score"]
        before = tower.calls
        frame[:] = 0  # the same buffer
        pipe(QUERY, references=references, use_language=False)
        assert tower.calls > before + 1


def test_after_refused_references_the_ones_before_them_are_still_compared_with(pipe, folder):
    expected = pipe(QUERY, references=[GOOD], answer=False)
    with pytest.raises(PictureError, match="none that Pillow can read"):
        pipe(QUERY, references=[str(folder / "config.json")], answer=False)
    assert plain(pipe(QUERY, references=[GOOD], answer=False)) == plain(expected)
    assert plain(pipe(QUERY, answer=False)) == plain(expected)


def test_a_16_bit_picture_is_the_same_by_whatever_way_it_comes(pipe, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (30, 50), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    content = base64.b64encode((tmp_path / "deep.png").read_bytes()).decode()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        ways = [tmp_path / "deep.png", f"data:image/png;base64,{content}", f"{address}/deep.png", values]
        maps = [np.asarray(pipe(way, references=[GOOD], use_language=False)["anomaly_map"]) for way in ways]
        with pytest.raises(PictureError, match="none is at 'http://127.0.0.1:.*/nothing.png'"):
            pipe(f"{address}/nothing.png")
        server.shutdown()
    assert all(np.array_equal(one, maps[0]) for one in maps)
    for text in ("data:image/png;base64,eA==", "data:image/png;base64,?"):
        with pytest.raises(PictureError, match="none that Pillow can read"):
            pipe(text)


def test_deep_pictures_are_opened_as_deep_as_the_references(pipe, tmp_path):
    shallow = [np.asarray(Image.fromarray(picture(seed)).convert("L")) for seed in range(3)]
    deep = []
    for seed, values in enumerate(shallow):
        deep.append(str(tmp_path / f"{seed}.png"))
        Image.fromarray(np.round(values * (4095 / 255)).astype(np.uint16)).save(deep[-1])
    expected = pipe(shallow[2], references=shallow[:2], answer=False)["pred_score"]
    text = "data:image/png;base64," + base64.b64encode(pathlib.Path(deep[2]).read_bytes()).decode()
    for query in (deep[2], text):
        found = pipe(query, references=deep[:2], answer=False)["pred_score"]
        assert found == pytest.approx(expected, rel=1e-3)


def test_weights_in_half_precision_are_used_in_full_on_a_cpu(tmp_path):
    """Convolutions of the embedded checkpoint in half precision take minutes a picture."""
    model, processor = tiny_pair()
    model.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert pipeline("anomaly-detection", model=str(tmp_path), device="cpu").model.dtype == torch.float32


def test_options_given_at_the_start_hold_for_all_calls(folder):
    pipe = pipeline("anomaly-detection", model=str(folder), device="cpu", references=[GOOD], language="zh")
    assert pipe(QUERY, answer=False)["language"] == "zh"
    assert pipe(QUERY, answer=False)["evidence"]["num_references"] == 1


def test_wrong_options_and_pictures_are_refused(pipe, folder):
    with pytest.raises(ValueError, match="Options must be among references, .*, got treshold"):
        pipe(QUERY, treshold=0.5)
    with pytest.raises(PictureError, match="is none that Pillow can read"):
        pipe(str(folder / "config.json"))


# The endpoint


def test_a_region_of_interest_is_taken_as_references_are(pipe, endpoint):
    region = Image.new("L", GOOD.size)
    region.paste(255, (0, 0, GOOD.width // 2, GOOD.height))
    expected = pipe(QUERY, references=[GOOD], roi=region)
    assert np.asarray(expected["anomaly_map"])[:, GOOD.width // 2 :].max() == 0
    assert pipe(QUERY, references=[GOOD])["evidence"].get("region_of_interest") is None
    request = {"image": encoded(QUERY), "references": [encoded(GOOD)], "roi": encoded(region)}
    assert plain(endpoint({"inputs": request})) == plain(expected)


@pytest.fixture(scope="module")
def endpoint(folder) -> EndpointHandler:
    assert AnomalyDetectionPipeline is not None
    return EndpointHandler(str(folder))


def test_the_endpoint_takes_base64_and_gives_json(endpoint, pipe):
    request = {"inputs": {"image": encoded(QUERY), "references": [encoded(GOOD)], "category": "bolt"}}
    answer = json.loads(json.dumps(endpoint(json.loads(json.dumps(request)))))
    expected = pipe(QUERY, references=[GOOD], category="bolt")
    assert plain(answer) == plain(expected)
    for name in ("anomaly_map", "mask"):
        decoded = Image.open(io.BytesIO(base64.b64decode(answer[name])))
        assert np.array_equal(np.asarray(decoded), np.asarray(expected[name]))


def test_one_request_teaches_nothing_to_the_next(endpoint):
    taught = {"inputs": {"image": encoded(QUERY), "references": [encoded(GOOD)]}, "parameters": {"answer": False}}
    assert endpoint(taught)["evidence"]["num_references"] == 1
    alone = endpoint(
        {
            "inputs": "data:image/png;base64," + encoded(QUERY)[:76] + "\n" + encoded(QUERY)[76:],
            "parameters": {"answer": False},
        }
    )
    assert alone["evidence"]["num_references"] == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "`image` must be a picture as base64 text, got NoneType"),
        ("/etc/passwd", "`image` must be a picture as base64 text, got one that cannot be decoded"),
        (base64.b64encode(b"no picture").decode(), "got one that cannot be decoded. Encode the whole file"),
        ({"image": encoded(QUERY), "references": "x"}, "`references` must be a list of at most 64 pictures"),
        ({"image": encoded(QUERY), "references": [encoded(GOOD)] * 65}, "must be a list of at most 64 pictures"),
        ({"image": encoded(QUERY), "references": ["eA=="]}, r"`references\[0\]` must be a picture"),
        ({"image": encoded(QUERY), "references": [encoded(GOOD)], "roi": "/etc/passwd"}, "`roi` must be a picture"),
        ({"image": encoded(QUERY), "speed": 1}, "Options must be among"),
        ({"image": encoded(QUERY), "num_workers": 99}, "`num_workers` must be left out"),
        ({"image": encoded(QUERY), "question": "a" * 2001}, "`question` must have at most 2000 letters, got 2001"),
        (
            {"image": encoded(QUERY), "question": {"a": "b" * 9999}},
            "`question` must be a text, a number, true or false",
        ),
        ({"image": encoded(QUERY), 3: 4}, "`3` must be left out"),
        ({"image": encoded(QUERY), "category": 5}, "`category` must be a text, got '5' of type int"),
        (
            {"image": encoded(QUERY), "use_language": "no"},
            "`use_language` must be True or False, got 'no' of type str",
        ),
        ({"image": encoded(QUERY), "mm_per_pixel": "a"}, "`mm_per_pixel` must be a number, got 'a' of type str"),
        ({"image": encoded(QUERY), "mm_per_pixel": True}, "`mm_per_pixel` must be a number, got 'True' of type bool"),
        ({"image": encoded(QUERY), "mm_per_pixel": 1e300}, "`mm_per_pixel` must be above 0 and at most 1000000"),
        (
            {"image": encoded(QUERY), "references": [encoded(GOOD)], "rotations": "no"},
            "`rotations` must be True or False, got 'no'",
        ),
        (
            {"image": encoded(QUERY), "references": [encoded(GOOD)], "max_patches": float("nan")},
            "`max_patches` must be a whole number, got 'nan'",
        ),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(endpoint, inputs, message):
    with pytest.raises(ValueError, match=message) as error:
        endpoint({"inputs": inputs})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [None, [], {"inputs": "x", "parameters": [1]}])
def test_what_is_no_request_is_refused_in_one_line(endpoint, data):
    with pytest.raises(ValueError, match="A request must be an object of `inputs`"):
        endpoint(data)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_PIXELS"])
def test_too_large_a_request_is_refused_before_it_is_decoded(endpoint, monkeypatch, limit):
    within = {"MAX_BYTES": 2 * len(encoded(QUERY)), "MAX_PIXELS": 2 * 30 * 50}
    monkeypatch.setattr(f"modeling_anomalygpt.handler.{limit}", within[limit])
    request = {"image": encoded(QUERY), "references": [encoded(QUERY)] * 3}
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)
    with pytest.raises(ValueError, match=f"All pictures of a request must have at most {within[limit]} "):
        endpoint({"inputs": request})
