"""Generated from protos/pursestrings/type."""
