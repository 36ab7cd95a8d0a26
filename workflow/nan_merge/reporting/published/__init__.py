"""Printed numbers of the papers beside measured ones.

Tables of measured scores alone live in `reporting`.
"""
