"""Proofs of the workflows."""
