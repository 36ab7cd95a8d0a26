"""The command `nan-merge`: a module for each subcommand that works anywhere, and a way to the scripts of a checkout.

What they do lives below: a module here parses arguments and prints. It
imports the library after that, since a help is to be there at once.

Imports: core, catalogue, methods, layouts, models, standalone.
"""
