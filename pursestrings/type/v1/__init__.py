"""Generated from protos/pursestrings/type/v1."""
