"""Temporal workflows: everything that waits, retries or asks a person."""
