"""The split of a configuration of GLUE that is the test split, from its parquet files; GLUE's own test split hides its labels."""

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict


def read(folders: list[str], config: str, split: str, **_: Any) -> DatasetDict:
    """Return a split as `test`; `folders` has the folder of the data, in which `config`/`split`-*.parquet lie.

    Raises FileNotFoundError without such a file, and ValueError for a hidden label.
    """
    files = sorted(map(str, (Path(folders[0]) / config).glob(f"{split}-*.parquet")))
    if not files:
        raise FileNotFoundError(f"no file {config}/{split}-*.parquet")
    data = Dataset.from_parquet(files)
    if "label" in data.column_names and (hidden := sum(label < 0 for label in data["label"])):
        raise ValueError(f"{hidden} of {len(data)} labels of {config}/{split} are below 0, which means hidden")
    return DatasetDict({"test": data})
