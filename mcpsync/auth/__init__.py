"""Authorization: finding who issues tokens, getting them, keeping them.

Specification: 2026-07-28, basic/authorization.
"""
