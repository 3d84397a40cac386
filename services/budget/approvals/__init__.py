"""Approvals: what a person decides before it is spent."""
