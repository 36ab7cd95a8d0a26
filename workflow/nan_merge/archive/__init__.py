"""A run as one zip file that another person can check: what it holds, that it holds nothing private, and what has changed in it.

How a run is made again is known to `workflow/archiving`; here files are only written, read and compared.

Imports: assets, core, data, reporting.
"""
