"""Miniature data sets in the layouts of the real ones, drawn pixel by pixel: for tests of the builders.

Every picture is different (its bytes too), every mask is known: `blob` says where it is.
"""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)  # height, width


def draw_picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Draw noise that depends on the path alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32("/".join(path.parts[-5:]).encode()))
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def blob(row: int, column: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A 4 x 4 square."""
    mask = np.zeros(size, dtype=bool)
    mask[row : row + 4, column : column + 4] = True
    return mask


def draw_mask(path: Path, mask: np.ndarray, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * value).save(path)
    return path


def draw_mvtec(root: Path, categories: dict[str, tuple[str, ...]] | None = None) -> Path:
    """3 normal training pictures, 2 normal and 2 of each defect to test on; masks at (2, 3) and (3, 3)."""
    for category, defects in (categories or {"bottle": ("broken_large", "contamination"), "grid": ("bent",)}).items():
        for index in range(3):
            draw_picture(root / category / "train" / "good" / f"{index:03d}.png")
        for index in range(2):
            draw_picture(root / category / "test" / "good" / f"{index:03d}.png")
        for defect in defects:
            for index in range(2):
                draw_picture(root / category / "test" / defect / f"{index:03d}.png")
                draw_mask(root / category / "ground_truth" / defect / f"{index:03d}_mask.png", blob(2 + index, 3))
    return root


def draw_visa(root: Path) -> Path:
    """Candle and pcb1: 4 normal, 3 anomalous; mask values 1 and 2 as in VisA; the three split files."""
    rows: dict[str, list[tuple[str, ...]]] = {"1cls": [], "2cls_fewshot": [], "2cls_highshot": []}
    for category in ("candle", "pcb1"):
        data = root / category / "Data"
        normal = [draw_picture(data / "Images" / "Normal" / f"{index:04d}.JPG") for index in range(4)]
        anomalous = [draw_picture(data / "Images" / "Anomaly" / f"{index:03d}.JPG") for index in range(3)]
        masks = [
            draw_mask(data / "Masks" / "Anomaly" / f"{index:03d}.png", blob(5, 6 + index), value=1 + index % 2)
            for index in range(3)
        ]
        name = lambda path: path.relative_to(root).as_posix()  # noqa: E731
        kinds = ["chunk of wax missing", "wax melded out of the candle,spot", "other"]
        with open(root / category / "image_anno.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "label", "mask"])
            table.writerows([name(path), "normal", ""] for path in normal)
            table.writerows([name(a), kind, name(m)] for a, kind, m in zip(anomalous, kinds, masks, strict=True))
        for protocol, (train_normal, train_anomalous) in zip(rows, ((3, 0), (1, 1), (2, 2)), strict=True):
            for index, path in enumerate(normal):
                split = "train" if index < train_normal else "test"
                rows[protocol].append((category, split, "normal", name(path), ""))
            for index, (path, mask) in enumerate(zip(anomalous, masks, strict=True)):
                split = "train" if index < train_anomalous else "test"
                rows[protocol].append((category, split, "anomaly", name(path), name(mask)))
    (root / "split_csv").mkdir()
    for protocol, lines in rows.items():
        with open(root / "split_csv" / f"{protocol}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *lines])
    return root


LOCO_RULES = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 10, "relative_saturation": False},
    {"defect_name": "scratch", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
]


def draw_loco(root: Path) -> Path:
    """Pushpins: a logical anomaly with two mask files (the kinds differ), a structural one with one."""
    category = root / "pushpins"
    for index in range(2):
        draw_picture(category / "train" / "good" / f"{index:03d}.png")
    draw_picture(category / "validation" / "good" / "000.png")
    draw_picture(category / "test" / "good" / "000.png")
    draw_picture(category / "test" / "logical_anomalies" / "000.png")
    draw_picture(category / "test" / "structural_anomalies" / "000.png")
    draw_mask(category / "ground_truth" / "logical_anomalies" / "000" / "000.png", blob(1, 1), value=255)
    draw_mask(category / "ground_truth" / "logical_anomalies" / "000" / "001.png", blob(12, 20), value=254)
    draw_mask(category / "ground_truth" / "structural_anomalies" / "000" / "000.png", blob(4, 4), value=254)
    (category / "defects_config.json").write_text(json.dumps(LOCO_RULES))
    return root


def draw_crack_forest(root: Path) -> Path:
    """Three roads with a crack each; MATLAB structs as in the original: 1 road, 2 and above crack."""
    import scipy.io

    (root / "groundTruth").mkdir(parents=True)
    for index in range(1, 4):
        draw_picture(root / "image" / f"{index:03d}.jpg")
        segmentation = np.ones(SIZE, dtype=np.uint16)
        segmentation[blob(index, 8)] = 1 + index  # 2, 3, 4: all of them crack
        boundaries = np.zeros(SIZE, dtype=np.uint8)
        truth = {"Segmentation": segmentation, "Boundaries": boundaries}
        scipy.io.savemat(root / "groundTruth" / f"{index:03d}.mat", {"groundTruth": truth})
    return root


def draw_conversations(root: Path) -> Path:
    """Three conversations about two pictures, of one and two questions."""
    for name in ("000000000001.jpg", "000000000002.jpg"):
        draw_picture(root / "images" / name)
    said = {
        "000000000001.jpg": ("What is it?", "A cat.", "Why?", "Fur."),
        "000000000002.jpg": ("<image>\nWhere?", "Here."),
    }
    said = [*said.items(), ("000000000001.jpg", ("How many?\n<image>", "One."))]
    entries = [
        {
            "image_name": name,
            "conversation": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)],
        }
        for name, texts in said
    ]
    (root / "pandagpt4_visual_instruction_data.json").write_text(json.dumps(entries))
    return root


DRAWN = {
    "mvtec_ad": draw_mvtec, "anomaly_folder": draw_mvtec, "visa": draw_visa, "mvtec_loco": draw_loco,
    "crack_forest": draw_crack_forest, "conversations": draw_conversations,
}  # fmt: skip
