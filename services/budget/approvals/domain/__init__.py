"""Rules of approvals: no I/O, no clock."""
