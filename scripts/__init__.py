"""The command line of each rule, run as `python -m scripts.<rule>`."""
