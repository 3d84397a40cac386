"""What the suite promises in figures, measured: `python -m bench`."""
