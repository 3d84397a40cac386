"""Proofs of metering."""
