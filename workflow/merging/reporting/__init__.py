"""Turn scores into statistics, tables, figures and one report. Nothing here loads a model."""
