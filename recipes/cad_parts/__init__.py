"""Rendered CAD parts: many instances of one part, good and with defects in geometry or material, path-traced."""
