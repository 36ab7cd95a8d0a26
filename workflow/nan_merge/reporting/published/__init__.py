"""Numbers printed in papers, with measured ones beside them.

Tables of measured scores alone live in `reporting`.
"""
