"""Synthetic anomalies: Poisson blending, pasted and drawn ones, and the wrapper that puts them on data sets."""
