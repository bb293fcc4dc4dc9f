"""Data set builders for visual inspection on one schema; names load on first use."""

from __future__ import annotations

from importlib import import_module

_EXPORTS = {
    "AnomalyFolder": "anomaly_folder",
    "COLUMNS": "schema",
    "CadParts": "cad_parts",
    "CadPartsConfig": "cad_parts",
    "Conversations": "conversations",
    "CrackForest": "crack_forest",
    "DATASET_NAMES": "loading",
    "DEFECTS": "part_defects",
    "Defect": "part_defects",
    "FAMILIES": "rendered_products",
    "HELD_BACK_FAMILIES": "rendered_products",
    "LABEL_NAMES": "schema",
    "MVTecAD": "mvtec_ad",
    "MVTecLOCO": "mvtec_loco",
    "Product": "rendered_products",
    "RenderedPart": "rendered_products",
    "RenderedParts": "rendered_parts",
    "RenderedPartsConfig": "rendered_parts",
    "SURFACE_DEFECTS": "part_defects",
    "TRAINING_FAMILIES": "rendered_products",
    "VisA": "visa",
    "apply_defect": "part_defects",
    "data_card": "publishing",
    "find_duplicates": "validation",
    "load_anomaly_dataset": "loading",
    "load_builder": "loading",
    "render_pair": "rendered_products",
    "render_part": "rendered_products",
    "render_product": "rendered_products",
    "save_parquet": "publishing",
    "schema_features": "schema",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
