"""Budget's rules: what may be spent, and what a spend changes. No I/O, no clock, no protobuf."""
