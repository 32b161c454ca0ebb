import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from benchmarks.cases import Case
from benchmarks.floor import Floor
from benchmarks.measure import Measurement, Result
from benchmarks.peers import IMPLEMENTATIONS
from benchmarks.plots import COLOURS, log_plot, memory, roofline

CASE = Case("log_prob", "hidden", "trainable", 0.0, 64, 16, 1000, "float32", "cpu")


def result(case, name="pytorch", seconds=0.5):
    floor = Floor(0.4, 1e9, "recompute", 1, 1, 1)
    return Result(case, floor, Measurement(name, None, seconds, seconds, seconds, case.vocabulary * 1000))


def marks(drawing):
    root = ElementTree.fromstring(drawing)  # well-formed
    return [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]


def test_every_implementation_has_a_colour():
    assert len(set(COLOURS)) == len(COLOURS) >= len(IMPLEMENTATIONS)


def test_the_roofline_shows_rates():
    failed = Result(CASE, Floor(0.4, 1e9), Measurement("quack-kernels", "needs a GPU"))
    drawing = roofline([result(CASE), failed])
    # 3 products of 2 x 64 x 16 x 1000 operations in 0.5 s; 2 x (64 + 1000) x 16 numbers read and half as many written
    assert marks(drawing) == [f"pytorch: {6144000 / (4 * 16 * 1064 * 3):.4g}, {6144000 / 0.5 / 1e12:.4g}", "pytorch"]
    assert roofline([failed]) is None


def test_memory_is_drawn_over_the_vocabulary():
    sizes = [replace(CASE, vocabulary=size) for size in (4000, 1000)]
    drawing = memory([result(case) for case in sizes] + [result(replace(CASE, operation="all"))])
    assert marks(drawing) == ["pytorch: 1000, 1", "pytorch: 4000, 4", "pytorch"]
    assert "log_prob, trainable head, N 64" in drawing
    assert memory([result(CASE)]) is None


def test_names_are_escaped():
    drawing = log_plot({"pytorch": [(1, 1)]}, (), x_label="a < b", y_label="y", title='"', joined=True)
    assert "a &lt; b" in drawing
    assert marks(drawing)
