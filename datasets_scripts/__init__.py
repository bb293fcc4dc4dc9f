"""Data set builders for visual inspection on one schema; names load on first use."""

from __future__ import annotations

from importlib import import_module

_NAMES = {
    "anomaly_builder": "COLUMNS LABEL_NAMES schema_features",
    "anomaly_files": "find_duplicates",
    "anomaly_folder": "AnomalyFolder",
    "cad_parts": "CadParts CadPartsConfig",
    "conversations": "Conversations",
    "crack_forest": "CrackForest",
    "loading": "DATASET_NAMES load_anomaly_dataset load_builder",
    "mvtec_ad": "MVTecAD",
    "mvtec_loco": "MVTecLOCO",
    "publishing": "data_card save_parquet",
    "rendered_parts": "RenderedParts RenderedPartsConfig",
    "rendering.defects": "DEFECTS SURFACE_DEFECTS Defect apply_defect",
    "rendering.products": "FAMILIES HELD_BACK_FAMILIES TRAINING_FAMILIES Product RenderedPart render_pair render_part "
    "render_product",
    "visa": "VisA",
}
_EXPORTS = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
