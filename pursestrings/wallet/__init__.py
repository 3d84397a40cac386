"""Generated from protos/pursestrings/wallet."""
