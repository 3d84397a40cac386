"""Generated from protos/pursestrings/metering/v1."""
