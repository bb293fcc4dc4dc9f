"""The project's metrics as modules of the `evaluate` library."""
