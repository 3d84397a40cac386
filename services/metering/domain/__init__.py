"""Metering's rules: `usage` accepts and rates calls, `questions` says what is asked of them. No I/O, no clock."""
