"""Generated from protos/pursestrings/metering."""
