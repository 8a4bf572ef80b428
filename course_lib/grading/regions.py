"""The regions nbgrader marks in a cell: solutions, hidden tests and mark schemes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Marker:
    """A pair of marks such as `### BEGIN SOLUTION` and `### END SOLUTION`."""

    name: str

    @property
    def begin(self):
        return f"BEGIN {self.name}"

    @property
    def end(self):
        return f"END {self.name}"


SOLUTION = Marker("SOLUTION")
HIDDEN_TESTS = Marker("HIDDEN TESTS")
MARK_SCHEME = Marker("MARK SCHEME")
MARKERS = (SOLUTION, HIDDEN_TESTS, MARK_SCHEME)


def split_regions(source, marker):
    """Separate what stands between a marker's lines from the rest of a cell.

    Returns `(visible, regions)`: the source without the regions and their marks, and the text of
    each region.
    Raises ValueError for a region inside a region, one without an end, or an end without a region.
    """
    visible, regions, region = [], [], None
    for line in source.split("\n"):
        if marker.begin in line:
            if region is not None:
                raise ValueError(f"a {marker.begin} stands inside another one")
            region = []
        elif marker.end in line:
            if region is None:
                raise ValueError(f"an {marker.end} has no {marker.begin} before it")
            regions.append("\n".join(region))
            region = None
        else:
            (visible if region is None else region).append(line)
    if region is not None:
        raise ValueError(f"a {marker.begin} has no {marker.end} after it")
    return "\n".join(visible), regions


def without_marks(source, marker):
    """A cell's source with the marker's own lines removed and the regions' text kept."""
    lines = source.split("\n")
    return "\n".join(line for line in lines if marker.begin not in line and marker.end not in line)


def cell_source(cell):
    """A cell's source as one string; notebook files may hold it as a list of lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def nbgrader_metadata(cell):
    """A cell's nbgrader metadata, or an empty mapping."""
    return cell.get("metadata", {}).get("nbgrader", {})
