"""Loading data: what is embedded, a folder laid out like the Hub, the Hub, and what goes wrong."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from course_lib import data
from course_lib.language import label_posterior, sample_documents

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"
SIZES = {"train": 6000, "validation": 1000, "test": 4000}


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def digest(splits):
    rows = [(split, row["text"], row["label"]) for split in splits for row in splits[split]]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A local folder in the Hub's layout: SST-2 in two shards, the phrase bank in one file."""
    for part in range(2):
        write(
            tmp_path / "sst2" / f"train-0000{part}-of-00002.parquet",
            sentence=[f"sentence {50 * part + i}" for i in range(50)],
            label=[i % 2 for i in range(50)],
            idx=list(range(50)),
        )
    write(
        tmp_path / "sst2" / "validation-00000-of-00001.parquet",
        sentence=["held out a", "held out b"],
        label=[1, 0],
        idx=[0, 1],
    )
    write(
        tmp_path / "financial_phrasebank" / "train-00000-of-00001.parquet",
        sentence=[f"headline {i}" for i in range(40)],
        label=[i % 3 for i in range(40)],
    )
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


# --- lite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_lite_is_the_embedded_corpus(name, capsys):
    splits = data.load(name)
    assert {split: len(rows) for split, rows in splits.items()} == SIZES
    for rows in splits.values():
        assert rows.features["label"].names == ["negative", "positive"]
        assert rows.column_names == ["text", "label"]
        assert 0.45 < sum(rows["label"]) / len(rows) < 0.55
    words = f"{name} (lite) from embedded data: 6000 train, 1000 validation, 4000 test\n"
    assert capsys.readouterr() == (words, "")


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_lite_labels_are_as_predictable_as_the_language_says(name):
    test = data.load(name)["test"]
    guesses = label_posterior(test["text"][:1000], finance_share=float(name == "finance"))
    accuracy = (guesses.argmax(axis=1) == test["label"][:1000]).mean()
    assert 0.93 < accuracy < 0.98  # 0.955 expected, standard error 0.007


def test_writing_the_corpora_gives_the_committed_content_and_the_same_bytes_twice(tmp_path):
    first, second = (data.write_embedded(tmp_path / name) for name in ("a", "b"))
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        committed = REPOSITORY / "data" / one.relative_to(tmp_path / "a")
        assert pq.read_table(one).equals(pq.read_table(committed))
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_embedded_splits_are_samples_of_their_own():
    for name, splits in data.EMBEDDED.items():
        assert len({seed for _, seed in splits.values()}) == 3
        number, seed = splits["validation"]
        documents = sample_documents(number, seed, domain=name)
        rows = data.load(name)["validation"]
        assert [document.text for document in documents] == list(rows["text"])
        assert [document.sentiment for document in documents] == list(rows["label"])


OFFLINE = """
import socket
attempts = []

def refuse(*arguments, **options):
    attempts.append(arguments)
    raise OSError("the network is cut")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
socket.create_connection = socket.gethostbyname = refuse

from course_lib import bert, data

sizes = [len(data.load(name)["train"]) for name in data.SOURCES]
model, tokenizer = bert.load()
features = bert.embed(model, bert.build_tokenizer(), ["Great film, superb cast."])
assert sizes == [6000, 6000] and features.shape == (1, 128)
assert not attempts, attempts
"""


def test_lite_and_the_embedded_checkpoint_never_contact_the_network(tmp_path):
    """In a fresh interpreter with an empty home, and without the Hub's own offline switches."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_", "COURSE_"))
    }
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_importing_the_module_needs_the_standard_library_only():
    code = "import sys, course_lib.data\nassert not {'numpy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)


def test_an_installed_package_finds_its_data_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "course_lib"
    package.mkdir()
    monkeypatch.setattr(data, "__file__", str(package / "data.py"))
    with pytest.raises(FileNotFoundError, match="embedded data are missing"):
        data.data_folder()
    (tmp_path / "data").mkdir()
    assert data.data_folder() == tmp_path / "data"
    (package / "_data").mkdir()
    assert data.data_folder() == package / "_data"
    with pytest.raises(FileNotFoundError, match="reviews is not a folder"):
        data.load("reviews")


# --- full ---------------------------------------------------------------------------------------


def test_full_reads_a_local_folder_in_the_hubs_layout(hub_folder, capsys):
    splits = data.load("reviews", "full")
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 98, "validation": 2, "test": 2,
    }  # fmt: skip
    assert list(splits["test"]["text"]) == ["held out a", "held out b"]
    learned = [*splits["train"]["text"], *splits["validation"]["text"]]
    assert sorted(learned) == sorted(f"sentence {i}" for i in range(100))
    assert str(hub_folder / "sst2") in capsys.readouterr().out
    finance = data.load("finance", "full")
    assert [len(finance[split]) for split in data.SPLITS] == [28, 6, 6]
    assert finance["train"].features["label"].names == ["negative", "neutral", "positive"]
    everything = [row for split in finance.values() for row in split]
    assert sorted(row["text"] for row in everything) == sorted(f"headline {i}" for i in range(40))
    assert all(row["label"] == int(row["text"].split()[1]) % 3 for row in everything)
    assert digest(finance) == digest(data.load("finance", "full"))


def test_the_local_folder_reads_as_the_datasets_library_reads_it(hub_folder, tmp_path):
    shards = {"train": str(hub_folder / "sst2" / "train-*.parquet")}
    other = datasets.load_dataset("parquet", data_files=shards, cache_dir=str(tmp_path / "cache"))
    splits = data.load("reviews", "full")
    ours = {(r["text"], r["label"]) for part in ("train", "validation") for r in splits[part]}
    assert ours == {(row["sentence"], row["label"]) for row in other["train"]}


def test_full_on_the_real_data_sets(monkeypatch):
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data sets are not beside the repository ({REAL_DATA.name})")
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(REAL_DATA))
    reviews, finance = data.load("reviews", "full"), data.load("finance", "full")
    assert [len(reviews[split]) for split in data.SPLITS] == [66002, 1347, 872]
    assert [len(finance[split]) for split in data.SPLITS] == [3392, 727, 727]
    assert 0.5 < sum(reviews["test"]["label"]) / 872 < 0.52
    for split in data.SPLITS:
        share = [
            list(finance[split]["label"]).count(label) / len(finance[split]) for label in (0, 1, 2)
        ]
        assert share == pytest.approx([0.125, 0.594, 0.281], abs=0.04)


def test_full_reads_the_hub_by_name(hub_folder, tmp_path, monkeypatch, capsys):
    """A folder stands in for the Hub: `load_dataset` resolves both in the same way."""
    monkeypatch.delenv(data.FOLDER_VARIABLE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "hub" / "phrasebank"
    for folder, label in (("sentences_50agree", 2), ("sentences_allagree", 0)):
        write(
            repository / folder / "train" / "0000.parquet",
            sentence=[f"{folder} {i}" for i in range(40)],
            label=[label] * 40,
        )
    source = data.SOURCES["finance"]
    stand_in = replace(source, hub=source.hub | {"path": str(repository)})
    monkeypatch.setitem(data.SOURCES, "finance", stand_in)
    splits = data.load("finance", "full")
    assert sum(len(rows) for rows in splits.values()) == 40
    assert all(text.startswith("sentences_50agree") for text in splits["train"]["text"])
    assert "Hugging Face Hub" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_the_hub_is_asked_for_the_named_data_set(name, monkeypatch):
    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        table = {
            "sentence": [f"text {i}" for i in range(100)],
            "label": [i % 2 for i in range(100)],
        }
        rows = datasets.Dataset.from_dict(table)
        return datasets.DatasetDict(train=rows, validation=rows)

    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(data.load(name, "full")["train"]) > 60
    wanted = {"reviews": "nyu-mll/glue", "finance": "takala/financial_phrasebank"}
    assert asked["path"] == wanted[name]


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("film",), ("reviews", "tiny"), (None,), ("reviews", None)])
def test_an_unknown_name_or_scale_is_refused_with_the_known_ones(arguments):
    with pytest.raises(ValueError, match="reviews, finance|lite or full"):
        data.load(*arguments)


def test_a_missing_folder_and_a_missing_split_are_named(hub_folder, monkeypatch):
    (hub_folder / "sst2" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="sst2 has no split 'validation'"):
        data.load("reviews", "full")
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(hub_folder / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere.*is not a folder"):
        data.load("reviews", "full")


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(hub_folder, damage):
    path = hub_folder / "sst2" / "train-00001-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"a,b\n"}[damage])
    with pytest.raises(OSError, match="train-00001-of-00002.*damaged"):
        data.load("reviews", "full")


def test_files_of_one_split_that_differ_are_named(hub_folder):
    write(hub_folder / "sst2" / "train-00001-of-00002.parquet", sentence=["only text"])
    with pytest.raises(ValueError, match="split train: its 2 files differ in columns"):
        data.load("reviews", "full")
    write(
        hub_folder / "sst2" / "train-00001-of-00002.parquet", sentence=["a"], label=[1.5], idx=[0]
    )
    with pytest.raises(ValueError, match="integers from 0 to 1"):
        data.load("reviews", "full")


GOOD = {"sentence": [f"headline {i}" for i in range(40)], "label": [0] * 40}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sentence": None}, "column 'sentence' is missing, got label"),
        ({"label": None}, "column 'label' is missing, got sentence"),
        ({"label": [3] * 40}, "integers from 0 to 2 .negative, neutral, positive"),
        ({"label": [-1] * 40}, "integers from 0 to 2"),
        ({"label": [0.5] * 40}, "integers from 0 to 2"),
        ({"label": [None] + [0] * 39}, "integers from 0 to 2"),
        ({"sentence": list(range(40))}, "text must be strings"),
        ({"sentence": [None] + ["headline"] * 39}, "text must be strings"),
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "no rows"),
    ],
)
def test_wrong_columns_labels_and_texts_are_named(hub_folder, change, sentence):
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    path = hub_folder / "financial_phrasebank" / "train-00000-of-00001.parquet"
    write(path, **columns)
    with pytest.raises(ValueError, match=sentence) as caught:
        data.load("finance", "full")
    assert "financial_phrasebank, split train" in str(caught.value)


def test_no_network_and_an_incomplete_hub_are_a_sentence(monkeypatch):
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)

    def unreachable(**arguments):
        raise ConnectionError("Couldn't reach the Hub\nlong explanation")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match="check the network, or set COURSE_DATA_DIR") as caught:
        data.load("reviews", "full")
    assert "long explanation" not in str(caught.value)
    only_test = datasets.DatasetDict(test=datasets.Dataset.from_dict(GOOD))
    monkeypatch.setattr(datasets, "load_dataset", lambda **arguments: only_test)
    with pytest.raises(FileNotFoundError, match="glue has no split 'train'"):
        data.load("reviews", "full")
