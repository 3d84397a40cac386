"""Generated from protos/pursestrings/budget."""
