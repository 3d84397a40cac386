"""The pure rules of money: no I/O, no clock, no protobuf."""
