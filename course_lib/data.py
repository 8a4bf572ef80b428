"""Data sets under one roof: `load(name, scale)` gives `text` and `label` whatever the source.

"lite" reads the small files embedded under `data/` and never contacts a network. "full" reads the
real data set: from the folder named by the environment variable COURSE_DATA_DIR, laid out like
the Hub (`<folder>/<split>-00000-of-00001.parquet`), or from the Hugging Face Hub by its name.

Importing this module needs nothing but the standard library: `course_lib.doctor` looks for the
data in an environment where the rest may be missing.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.files import replacing

if TYPE_CHECKING:
    import pyarrow
    from datasets import DatasetDict

FOLDER_VARIABLE = "COURSE_DATA_DIR"
SCALES = ("lite", "full")
SPLITS = ("train", "validation", "test")
SPLIT_SEED = 20_190_411  # of the splits we cut ourselves
# What is embedded: data set -> split -> (documents, seed).
EMBEDDED = {
    "reviews": {"train": (6000, 101), "validation": (1000, 102), "test": (4000, 103)},
    "finance": {"train": (6000, 201), "validation": (1000, 202), "test": (4000, 203)},
}

Tables = dict[str, "pyarrow.Table"]


@dataclass(frozen=True)
class Source:
    """One data set: where both scales come from and what their columns are called."""

    lite_folder: str  # under data/
    lite_labels: tuple[str, ...]
    local_folder: str  # under COURSE_DATA_DIR
    hub: dict[str, str]  # arguments of datasets.load_dataset
    hub_splits: tuple[str, ...]  # what has to be there
    columns: dict[str, str]  # column of the source -> text | label
    full_labels: tuple[str, ...]
    split: Callable[[Tables], Tables]  # the Hub's splits -> train, validation, test


def _sst2_splits(tables: Tables) -> Tables:
    """GLUE keeps the test labels secret: test is its validation set, validation 2 % of train."""
    train, validation = _cut(tables["train"], (0.98, 0.02))
    return {"train": train, "validation": validation, "test": tables["validation"]}


def _seventy_fifteen_fifteen(tables: Tables) -> Tables:
    """One table only: 70 / 15 / 15 % by a fixed permutation."""
    return dict(zip(SPLITS, _cut(tables["train"], (0.70, 0.15, 0.15)), strict=True))


SOURCES = {
    "reviews": Source(
        lite_folder="reviews",
        lite_labels=("negative", "positive"),
        local_folder="sst2",
        hub={"path": "nyu-mll/glue", "name": "sst2"},
        hub_splits=("train", "validation"),
        columns={"sentence": "text", "label": "label"},
        full_labels=("negative", "positive"),
        split=_sst2_splits,
    ),
    # lite has two classes, full has three: the generated language has no neutral sentiment.
    "finance": Source(
        lite_folder="finance",
        lite_labels=("negative", "positive"),
        local_folder="financial_phrasebank",
        hub={
            "path": "takala/financial_phrasebank",
            "data_dir": "sentences_50agree",
            "revision": "refs/convert/parquet",  # the main branch holds a script
        },
        hub_splits=("train",),
        columns={"sentence": "text", "label": "label"},
        full_labels=("negative", "neutral", "positive"),
        split=_seventy_fifteen_fifteen,
    ),
}


def data_folder() -> Path:
    """The embedded data: `course_lib/_data` in an installed package, else the repository's `data`.

    Raises FileNotFoundError if neither is there.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_data", here.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The embedded data are missing: neither {here / '_data'} nor {here.parent / 'data'} is a "
        "folder; install the course again or run from a complete checkout."
    )


def load(name: str, scale: str = "lite") -> "DatasetDict":
    """Splits train, validation and test with the columns `text` (str) and `label` (ClassLabel).

    name: a key of SOURCES.  scale: "lite" (embedded, offline) or "full" (COURSE_DATA_DIR or Hub).
    Prints one line that says which source was read.
    "reviews": two classes. "finance": two classes in lite, three (with neutral) in full.
    Full "reviews" is SST-2; its test set is GLUE's validation set, because GLUE keeps the test
    labels. Full "finance" has no splits of its own and is cut 70 / 15 / 15 % by a fixed seed.
    Raises ValueError for an unknown name or scale, or columns and labels which do not fit;
    FileNotFoundError for a missing folder or split; OSError for a damaged file or no network.
    """
    if name not in SOURCES:
        raise ValueError(f"name must be one of {', '.join(SOURCES)}, got {name!r}.")
    if scale not in SCALES:
        raise ValueError(f"scale must be lite or full, got {scale!r}.")
    source = SOURCES[name]
    if scale == "lite":
        origin = data_folder() / source.lite_folder
        tables = _read_folder(origin, SPLITS)
        result = _dataset(tables, {"text": "text", "label": "label"}, source.lite_labels, origin)
        said = "embedded data"  # no path: a notebook's output is the same everywhere
    else:
        tables, origin, said = read_full(
            source.local_folder, source.hub, source.hub_splits, source.columns
        )
        result = _dataset(source.split(tables), source.columns, source.full_labels, origin)
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in result.items())
    print(f"{name} ({scale}) from {said}: {sizes}")
    return result


def read_full(
    local_folder: str, hub: dict[str, str], splits: tuple[str, ...], columns: Iterable[str]
) -> tuple[Tables, str | Path, str]:
    """The real data as they are: from `local_folder` under COURSE_DATA_DIR, or from the Hub.

    hub: arguments of `datasets.load_dataset`.  splits, columns: what has to be there.
    Returns the tables of `splits`, where they come from, and the same in words for a reader.
    Raises FileNotFoundError for a missing folder or split, ValueError for a missing column or no
    rows, OSError for a damaged file or no network.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        origin = Path(folder).expanduser() / local_folder
        said = str(origin)
        tables = _read_folder(origin, splits)
    else:
        origin = hub["path"]
        said = f"{origin} on the Hugging Face Hub"
        tables = _read_hub(hub, splits, local_folder)
    _check_columns(tables, columns, origin)
    return tables, origin, said


def write_embedded(folder: str | Path) -> list[Path]:
    """Write the embedded corpora to `folder`, the same content on every machine.

    Documents of the generated language (see `course_lib.language`), label = sentiment.
    Returns the files written: <folder>/{reviews,finance}/<split>-00000-of-00001.parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from course_lib.language import sample_documents

    written = []
    for name, splits in EMBEDDED.items():
        for split, (number, seed) in splits.items():
            documents = sample_documents(number, seed, domain=name)
            table = pa.table(
                {
                    "text": pa.array([document.text for document in documents], pa.string()),
                    "label": pa.array([document.sentiment for document in documents], pa.int64()),
                }
            )
            path = Path(folder) / name / f"{split}-00000-of-00001.parquet"
            with replacing(path) as partial:
                pq.write_table(table, partial, compression="zstd")
            written.append(path)
    return written


def _cut(table: "pyarrow.Table", shares: tuple[float, ...]) -> list["pyarrow.Table"]:
    """Disjoint parts by a fixed permutation; together they are the whole table."""
    import numpy as np

    order = np.random.default_rng(SPLIT_SEED).random(len(table)).argsort(kind="stable")
    ends = np.round(np.cumsum(shares) * len(table)).astype(int)[:-1]
    return [table.take(np.sort(rows)) for rows in np.split(order, ends)]


def _read_folder(folder: Path, splits: tuple[str, ...]) -> Tables:
    import pyarrow as pa

    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; wanted one with {splits[0]}-00000-of-00001.parquet."
        )
    tables = {}
    for split in splits:
        files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")])
        if not files:
            raise FileNotFoundError(
                f"{folder} has no split {split!r}; wanted {split}-00000-of-00001.parquet."
            )
        parts = [_read_file(file) for file in files]
        if any(part.schema.names != parts[0].schema.names for part in parts):
            raise ValueError(f"{folder}, split {split}: its {len(files)} files differ in columns.")
        tables[split] = pa.concat_tables(parts, promote_options="permissive")
    return tables


def _read_file(file: Path) -> "pyarrow.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:  # without datasets.load_dataset, which would copy everything into a cache at home
        return pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise OSError(
            f"{file} cannot be read as parquet, it may be damaged or cut short; copy it again "
            f"({str(error).splitlines()[0]})."
        ) from error


def _read_hub(hub: dict[str, str], splits: tuple[str, ...], local_folder: str) -> Tables:
    import datasets

    origin = hub["path"]
    try:
        found = datasets.load_dataset(**hub)
    except Exception as error:  # the Hub client raises a dozen types for "cannot be had"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"{origin} cannot be loaded from the Hugging Face Hub; check the network, or set "
            f"{FOLDER_VARIABLE} to a folder that holds {local_folder}/ ({reason})."
        ) from error
    missing = [split for split in splits if split not in found]
    if missing:
        raise FileNotFoundError(f"{origin} has no split {missing[0]!r}, only {list(found)}.")
    return {split: found[split].with_format("arrow")[:] for split in splits}


def _check_columns(tables: Tables, columns: Iterable[str], origin: str | Path) -> None:
    for split, table in tables.items():
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise ValueError(
                f"{origin}, split {split}: column {missing[0]!r} is missing, got "
                f"{', '.join(table.column_names)}; wanted {', '.join(columns)}."
            )
        if not len(table):
            raise ValueError(f"{origin}, split {split}: no rows; wanted at least one.")


def _dataset(
    tables: Tables, columns: dict[str, str], label_names: tuple[str, ...], origin: str | Path
) -> "DatasetDict":
    """Check the tables, rename their columns to text and label, and name the labels."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value

    _check_columns(tables, columns, origin)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(label_names))})
    splits = {}
    for split, table in tables.items():
        table = table.select(list(columns)).rename_columns(list(columns.values()))
        labels = table["label"]
        allowed = pa.types.is_integer(labels.type) and labels.null_count == 0
        if not allowed or pc.min(labels).as_py() < 0 or pc.max(labels).as_py() >= len(label_names):
            raise ValueError(
                f"{origin}, split {split}: labels must be integers from 0 to "
                f"{len(label_names) - 1} ({', '.join(label_names)})."
            )
        kind = table["text"].type
        strings = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not strings or table["text"].null_count:
            raise ValueError(f"{origin}, split {split}: text must be strings, none missing.")
        columns_out = {
            "text": table["text"].cast(pa.string()),
            "label": table["label"].cast(pa.int64()),
        }
        splits[split] = Dataset(pa.table(columns_out), info=DatasetInfo(features=features))
    return DatasetDict(splits)
