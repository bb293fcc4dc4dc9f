"""Metrics, protocols, detectors and the tables of `anomalygpt evaluate`."""
