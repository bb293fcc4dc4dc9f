"""Data set builders for visual inspection on one schema; names load on first use."""

from __future__ import annotations

from importlib import import_module

_EXPORTS = {
    "COLUMNS": "schema",
    "DEFECTS": "part_defects",
    "Defect": "part_defects",
    "FAMILIES": "rendered_products",
    "HELD_BACK_FAMILIES": "rendered_products",
    "LABEL_NAMES": "schema",
    "Product": "rendered_products",
    "RenderedPart": "rendered_products",
    "RenderedParts": "rendered_parts",
    "RenderedPartsConfig": "rendered_parts",
    "SURFACE_DEFECTS": "part_defects",
    "TRAINING_FAMILIES": "rendered_products",
    "apply_defect": "part_defects",
    "render_pair": "rendered_products",
    "render_part": "rendered_products",
    "render_product": "rendered_products",
    "schema_features": "schema",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
