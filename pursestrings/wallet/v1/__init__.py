"""Generated from protos/pursestrings/wallet/v1."""
