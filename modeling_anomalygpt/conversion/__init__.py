"""The published AnomalyGPT files as one checkpoint folder."""
