"""Blocking transports: how messages reach a server and come back."""
