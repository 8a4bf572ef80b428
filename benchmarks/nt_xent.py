"""Time and memory of NT-Xent, forward and backward, against other ways to compute it on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/nt_xent.py

Prints a Markdown table. The contestants take turns, and a median is taken over the rounds, so that
what else the machine does falls on all of them. Before that, all losses and gradients must agree
with the plain formula in float64, to float32's rounding. Memory is what a fresh process takes in
addition at its peak during one forward and backward pass (read from /proc, so on Linux only).
lightly and pytorch-metric-learning take part where they are installed.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import math
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional as F

from course_lib.contrastive import nt_xent

TEMPERATURE, DIM = 0.1, 128
LARGEST = {"pytorch-metric-learning": 256}  # its memory grows with N^3: 34 GB at N = 1 024


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules in place of torchvision, which lightly imports but its loss never calls."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__version__ = "0.0"
        return module

    def exec_module(self, module):
        pass


def plain(z1, z2):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def course(z1, z2):
    return nt_xent(z1, z2, TEMPERATURE)


def losses():
    """Every loss that can be imported, by name."""
    found = {"course_lib": course, "plain formula": plain}
    if importlib.util.find_spec("lightly"):
        if not importlib.util.find_spec("torchvision"):
            sys.meta_path.append(StandIns())
        from lightly.loss.ntx_ent_loss import NTXentLoss

        found["lightly"] = NTXentLoss(temperature=TEMPERATURE)
    if importlib.util.find_spec("pytorch_metric_learning"):
        from pytorch_metric_learning.losses import NTXentLoss as MetricLearningLoss

        metric_learning = MetricLearningLoss(temperature=TEMPERATURE)
        found["pytorch-metric-learning"] = lambda z1, z2: metric_learning(
            torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2)
        )
    return found


def three_products(points):
    """S = Z Z', S Z and S' Z into memory that is there already."""
    matrix, pulls = points.new_empty(len(points), len(points)), torch.empty_like(points)

    def run():
        torch.mm(points, points.T, out=matrix)
        torch.mm(matrix, points, out=pulls)
        torch.mm(matrix.T, points, out=pulls)

    return run


def make_views(n):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, DIM, generator=generator, requires_grad=True) for _ in range(2)]


def require_agreement(n=200):
    """Raise unless every loss and its gradient is that of the plain formula in float64."""
    views = make_views(n)
    exact = [view.detach().double().requires_grad_() for view in views]
    wanted = plain(*exact)
    pulls = torch.autograd.grad(wanted, exact)
    for name, loss in losses().items():
        got = loss(*views)
        own = torch.autograd.grad(got, views)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=0, msg=f"{name}: loss")
        for pull, exact_pull in zip(own, pulls, strict=True):
            size = exact_pull.abs().max().item()
            torch.testing.assert_close(
                pull.double(), exact_pull, rtol=0, atol=1e-5 * size, msg=f"{name}: gradient"
            )


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_times(n, rounds):
    """Median seconds of each contestant, in rounds in which each runs once."""
    views = make_views(n)
    calls = {
        name: lambda loss=loss: loss(*views).backward()
        for name, loss in losses().items()
        if n <= LARGEST.get(name, n)
    }
    points = F.normalize(torch.cat(views).detach(), dim=1)
    calls["three products"] = three_products(points)
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def status(field):
    """A field of this process's state, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak_rise(name, n):
    """MiB by which one pass raises the memory of this process, which should be a fresh one."""
    torch.set_num_threads(1)
    loss, views = losses()[name], make_views(n)
    loss(*[view[:8] for view in views]).backward()
    for view in views:
        view.grad = None
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    before = status("VmRSS")
    loss(*views).backward()
    return status("VmHWM") - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096], metavar="N")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    require_agreement()
    print("| N | loss | ms | times the three products | peak rises by, MiB |")
    print("|---|---|---|---|---|")
    for n in options.sizes:
        times = median_times(n, options.rounds)
        for name, taken in sorted(times.items(), key=lambda item: item[1]):
            memory = ""
            if name != "three products":
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    memory = f"{fresh.apply(peak_rise, (name, n)):.0f}"
            share = taken / times["three products"]
            print(f"| {n} | {name} | {1000 * taken:.1f} | {share:.2f} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
