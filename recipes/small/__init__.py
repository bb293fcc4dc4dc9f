"""Makes `anomalygpt_small`: the embedded eyes with SmolLM2-135M-Instruct and an adapter that speaks of facts."""
