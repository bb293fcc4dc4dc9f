"""Data set builders for visual inspection on one schema; names load on first use."""

from __future__ import annotations

from importlib import import_module

_EXPORTS = {
    "AnomalyFolder": "anomaly_folder",
    "COLUMNS": "anomaly_builder",
    "Conversations": "conversations",
    "CrackForest": "crack_forest",
    "DATASET_NAMES": "loading",
    "DEFECTS": "rendering.defects",
    "Defect": "rendering.defects",
    "FAMILIES": "rendering.products",
    "HELD_BACK_FAMILIES": "rendering.products",
    "LABEL_NAMES": "anomaly_builder",
    "MVTecAD": "mvtec_ad",
    "MVTecLOCO": "mvtec_loco",
    "Product": "rendering.products",
    "RenderedPart": "rendering.products",
    "RenderedParts": "rendered_parts",
    "RenderedPartsConfig": "rendered_parts",
    "SURFACE_DEFECTS": "rendering.defects",
    "TRAINING_FAMILIES": "rendering.products",
    "VisA": "visa",
    "apply_defect": "rendering.defects",
    "data_card": "publishing",
    "find_duplicates": "anomaly_files",
    "load_anomaly_dataset": "loading",
    "load_builder": "loading",
    "render_pair": "rendering.products",
    "render_part": "rendering.products",
    "render_product": "rendering.products",
    "save_parquet": "publishing",
    "schema_features": "anomaly_builder",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
