"""Which convolution kernels of the installed torch are wrong on a CPU, and whether training avoids them.

Each convolution runs in a child process, one for every instruction set that oneDNN is told to use: forward, and the
gradients of input and weight, against float64. Children run under glibc's checking allocator where there is one,
which finds writes past the end of a buffer. They compute everything twice: results must be equal to the bit. Where a
child dies, another one goes on with the next convolution.

Without options, a few convolutions of the kind that oneDNN computes wrongly (uxlfoundation/oneDNN#6035) are tried,
transposed convolutions among them: a mended torch release shows there. `--scan` tries all distinct convolutions of
the shipped networks.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autodistill.models import MODELS, build
from autodistill.training.convolutions import SafeGradients, backward_pass, cpu_network, replace_convolutions

SETS = {"native": "", "AVX512_CORE": "avx512", "AVX2": "avx2", "SSE41": "default"}
"""Values of ONEDNN_MAX_CPU_ISA, and those of ATEN_CPU_CAPABILITY that go with them."""
SIZES, WIDTHS = (8, 14, 28, 32, 64, 96, 128, 224), (0.125, 0.25, 0.5, 1.0)
LARGE = 128
"""Image size from which `--scan` takes the smallest and the largest width only."""
WAYS = ("channels_last", "contiguous", "trained")
"""The plain module in both memory formats, and what is trained in its place (in channels_last memory)."""
PARTS = ("forward", "input", "weight")
ALLOWED = 1e-3
"""Greatest error of an element, in root mean squares of the float64 result. Rounding makes 1e-6 to 1e-5."""
HANGS_S = 300


class Convolution(NamedTuple):
    """A convolution as a network computes it. Two numbers each: along height and width.

    With an `output_padding`, it is a transposed convolution.
    """

    in_channels: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    size: tuple[int, int]
    output_padding: tuple[int, int] | None = None

    def __str__(self) -> str:
        kernel, stride, padding, size = (f"{a}x{b}" for a, b in (self.kernel, self.stride, self.padding, self.size))
        shape = f"{self.in_channels}->{self.channels} kernel {kernel} stride {stride} padding {padding}"
        if self.output_padding is not None:
            shape = f"transposed {shape} output padding {'x'.join(map(str, self.output_padding))}"
        return f"{shape} groups {self.groups} on {size}"

    @property
    def batch(self) -> int:
        return 2 if self.size[0] >= 56 else 3

    def module(self) -> nn.Conv2d | nn.ConvTranspose2d:
        shape = (self.in_channels, self.channels, self.kernel, self.stride, self.padding)
        if self.output_padding is not None:
            return nn.ConvTranspose2d(*shape, self.output_padding, groups=self.groups, bias=False)
        return nn.Conv2d(*shape, groups=self.groups, bias=False)


def strided(in_channels: int, channels: int, size: int, *, stride: tuple[int, int] = (2, 2)) -> Convolution:
    """A 1x1 convolution with a stride."""
    return Convolution(in_channels, channels, (1, 1), stride, (0, 0), 1, (size, size))


def transposed(in_channels: int, channels: int, size: int, *, stride: tuple[int, int] = (2, 2)) -> Convolution:
    """A transposed 1x1 convolution with a stride, which divides the sides of its output."""
    padding = (stride[0] - 1, stride[1] - 1)
    return strided(in_channels, channels, size, stride=stride)._replace(output_padding=padding)


FAULTY = (
    strided(4, 8, 8),
    strided(4, 8, 32),
    strided(4, 8, 64),
    strided(6, 6, 64),
    strided(12, 16, 64),
    strided(4, 8, 63, stride=(3, 3)),
    strided(4, 8, 64, stride=(1, 2)),
    strided(4, 8, 64, stride=(2, 1)),
    transposed(64, 4, 8),
    transposed(64, 4, 32),
    transposed(64, 4, 64),
    transposed(8, 4, 32),
    transposed(64, 12, 64),
    transposed(64, 4, 32, stride=(3, 3)),
    transposed(64, 4, 64, stride=(1, 2)),
    transposed(64, 4, 64, stride=(2, 1)),
)


class Found(NamedTuple):
    """What came of a convolution computed in one way."""

    convolution: Convolution
    way: str
    fault: str | None
    """None: it is right."""


# ---------------------------------------------------------------- convolutions of the shipped networks


class Noting(TorchDispatchMode):
    """Notes the convolutions of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Convolution] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            maps, weight, _, stride, padding, _, _, _, groups = args
            shapes = (tuple(it) for it in (weight.shape[2:], stride, padding))
            self.seen.add(Convolution(maps.shape[1], len(weight), *shapes, groups, tuple(maps.shape[2:])))
        return func(*args, **(kwargs or {}))


def convolutions_of(name: str, *, image_size: int, in_channels: int = 3) -> set[Convolution]:
    """The convolutions of a network, and those of what is trained in its place. Nothing is computed."""
    with torch.device("meta"):
        network = build(name, num_classes=10, in_channels=in_channels, image_size=image_size, seed=0)
        images = torch.empty(2, in_channels, image_size, image_size)
    noting = Noting()
    with torch.no_grad(), noting:
        network(images)
        replace_convolutions(network)
        network(images)
    return noting.seen


def shipped() -> list[Convolution]:
    """All distinct convolutions of the shipped networks, small maps first."""
    found: set[Convolution] = set()
    for name, size in itertools.product(MODELS, SIZES):
        for width in WIDTHS if size < LARGE else (WIDTHS[0], WIDTHS[-1]):
            for channels in (1, 3):
                found |= convolutions_of(f"{name}:{width}", image_size=size, in_channels=channels)
    return sorted(found, key=lambda it: (it.size, it))


# ---------------------------------------------------------------- what a child does


def results(convolution: Convolution, way: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Forward result, and gradients of input and weight, of a convolution computed in one way."""
    maps, weight, gradient = inputs
    network = nn.Sequential(convolution.module().to(maps.dtype))
    layout = torch.contiguous_format if way == "contiguous" else torch.channels_last
    with torch.no_grad():
        network[0].weight.copy_(weight)
    network.to(memory_format=layout)
    maps = maps.detach().contiguous(memory_format=layout).requires_grad_()
    run = cpu_network(network) if way == "trained" else network
    output = run(maps)
    with backward_pass(run) if way == "trained" else contextlib.nullcontext():
        output.backward(gradient.contiguous(memory_format=layout))
    return [output.detach(), maps.grad, network[0].weight.grad]


def fault(convolution: Convolution, way: str, arrays: dict[str, np.ndarray]) -> str | None:
    """Compute a convolution twice and compare; None where all is right."""
    inputs = [torch.from_numpy(arrays[name]) for name in ("maps", "kernel", "gradient")]
    once, again = results(convolution, way, inputs), results(convolution, way, inputs)
    wrong = []
    for part, first, second in zip(PARTS, once, again, strict=True):
        expected = torch.from_numpy(arrays[part])
        error = float((first - expected).abs().max() / expected.square().mean().sqrt())
        if not error <= ALLOWED:
            wrong.append(f"{part} off by {error:.1g}")
        elif not torch.equal(first, second):
            wrong.append(f"{part} not repeated")
    return ", ".join(wrong) or None


def serve() -> None:
    """Answer requests, a line each. A process that has computed nothing yet stands by for one that dies."""
    while (pid := os.fork()) > 0:
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        print(json.dumps("hangs" if number == signal.SIGALRM else f"dies by signal {number}"), flush=True)
    for line in sys.stdin:
        convolution, way, path = json.loads(line)
        signal.alarm(HANGS_S)
        with np.load(path) as arrays:
            print(json.dumps(fault(spelt(convolution), way, dict(arrays))), flush=True)


def spelt(fields: Sequence[Any]) -> Convolution:
    """A convolution from JSON."""
    return Convolution(*(tuple(it) if isinstance(it, list) else it for it in fields))


# ---------------------------------------------------------------- what the parent does


class Child:
    """A process that computes convolutions under an instruction set."""

    def __init__(self, isa: str) -> None:
        environment = dict(os.environ, LD_PRELOAD="libc_malloc_debug.so.0", GLIBC_TUNABLES="glibc.malloc.check=3")
        if isa != "native":
            environment |= {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": SETS[isa]}
        self.errors = TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def ask(self, convolution: Convolution, way: str, path: Path) -> str | None:
        """What is wrong with a convolution. A death counts where it happens in a new process too."""
        answer = self._answer(convolution, way, path)
        return self._answer(convolution, way, path) if is_death(answer) else answer

    def _answer(self, convolution: Convolution, way: str, path: Path) -> str | None:
        print(json.dumps([convolution, way, str(path)]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"a child ended at {convolution}: {self.errors.read()[-2000:]}")
        answer: str | None = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


def is_death(answer: str | None) -> bool:
    """Whether a process died of a convolution, or hung."""
    return answer is not None and answer.startswith(("dies", "hangs"))


def tried(
    convolutions: Iterable[Convolution], sets: Sequence[str], *, ways: Sequence[str] = WAYS
) -> Iterator[tuple[str, Found]]:
    """Compute convolutions under instruction sets, side by side: the float64 results are computed once."""
    children = {isa: Child(isa) for isa in sets}
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for child in children.values():
            stack.callback(child.close)
        path = Path(folder, "expected.npz")
        for convolution in convolutions:
            np.savez(path, **expected(convolution))
            for isa, way in itertools.product(sets, ways):
                if way != "trained" or "channels_last" not in ways or is_replaced(convolution):
                    yield isa, Found(convolution, way, children[isa].ask(convolution, way, path))


def is_replaced(convolution: Convolution) -> bool:
    """Whether training computes the convolution, or its gradients, in another way than the module does."""
    network = nn.Sequential(convolution.module())
    trained = cpu_network(network)
    return trained is not network or isinstance(backward_pass(trained), SafeGradients)


def expected(convolution: Convolution) -> dict[str, np.ndarray]:
    """Random float32 inputs, and results in float64, which oneDNN has no part in."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(convolution.batch, convolution.in_channels, *convolution.size, generator=generator)
    module = convolution.module()
    inputs = {
        "maps": maps,
        "kernel": torch.randn(module.weight.shape, generator=generator),
        "gradient": torch.randn(module.to("meta")(maps.to("meta")).shape, generator=generator),
    }
    found = results(convolution, "contiguous", [it.double() for it in inputs.values()])
    return {name: it.numpy() for name, it in (inputs | dict(zip(PARTS, found, strict=True))).items()}


def show(found: Sequence[tuple[str, Found]]) -> None:
    """Print counts by instruction set and way, and everything that is wrong."""
    print(f"{'instruction set':16} {'way':14} {'tried':>6} {'right':>6} {'wrong':>6} {'died':>6}")
    for (isa, way), kinds in sorted(_counted(found).items()):
        print(f"{isa:16} {way:14} {kinds.total():6} {kinds['right']:6} {kinds['wrong']:6} {kinds['died']:6}")
    for isa, one in found:
        if one.fault:
            print(f"{isa}, {one.way}: {one.convolution}: {one.fault}")


def _counted(found: Sequence[tuple[str, Found]]) -> dict[tuple[str, str], Counter[str]]:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for isa, one in found:
        kind = "right" if one.fault is None else "died" if is_death(one.fault) else "wrong"
        counts[isa, one.way][kind] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", action="store_true", help="all convolutions of the shipped networks")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="instruction sets")
    parser.add_argument("--check", action="store_true", help="exit 1 where what is trained is wrong")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        return serve()
    begun = time.monotonic()
    convolutions = shipped() if args.scan else list(FAULTY)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}: {len(convolutions)} convolutions")
    found = []
    for number, (isa, one) in enumerate(tried(convolutions, args.sets)):
        found.append((isa, one))
        if number % 1000 == 0 and args.scan:
            print(
                f"{time.monotonic() - begun:.0f} s: {number} tried, at {one.convolution}", file=sys.stderr, flush=True
            )
    show(found)
    plain = [one for _, one in found if one.way == "channels_last" and one.fault]
    print(
        "plain modules in channels_last memory " + ("are wrong" if plain else "are right: torch has mended its kernel")
    )
    trained = [one for _, one in found if one.way == "trained" and one.fault]
    if args.check and trained:
        sys.exit(f"{len(trained)} convolutions are wrong in training")


if __name__ == "__main__":
    main()
