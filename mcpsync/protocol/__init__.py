"""The protocol itself: pure functions and data, no I/O, no threads, no clock."""
