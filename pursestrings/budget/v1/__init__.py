"""Generated from protos/pursestrings/budget/v1."""
