"""Draw one figure of one suite as SVG, PDF and PNG (rule draw_figure)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.figures import draw_figure
from scripts.render_table import parsed


def main() -> None:
    """Parse the command line and draw."""
    draw_figure(*parsed(argparse.ArgumentParser(description=__doc__), "figure", "written as .svg, .pdf and .png"))


if __name__ == "__main__":
    command_line(main)
