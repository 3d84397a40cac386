"""SQL of approvals."""
