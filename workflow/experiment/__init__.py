"""The config: read, checked against the schemas, cross-referenced and expanded. The only code that knows its layout.

What a method or an asset does lives in the library `nan_merge`; the rules turn the experiment into jobs.
"""
