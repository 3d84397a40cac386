"""The gRPC services of Pursestrings and what they share."""
