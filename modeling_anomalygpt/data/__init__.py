"""Labelled rows as training and evaluation see them: sources, fingerprints, encoded examples."""
