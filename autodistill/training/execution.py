"""How a step is executed: eagerly, recorded in a CUDA graph, or compiled; eagerly wherever the other fails."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from autodistill.records import Mode
from autodistill.training.step import Step

WARM_UP = 3
"""Steps before a recording: the optimiser makes its buffers in the first, cuDNN and cuBLAS choose their kernels."""


class Execution(NamedTuple):
    """How a run's steps are executed, and who is told where that did not work."""

    mode: Mode = "eager"
    """`graph` records the whole step in a CUDA graph; `compiled` compiles the network, and records that on a GPU."""
    say: Callable[[str], None] = lambda _: None


EAGER = Execution()


class Executor:
    """Executes a run's steps. The first ones, before a recording, are real steps of the run too."""

    def __init__(self, step: Step, execution: Execution) -> None:
        self._step, self._say, self._mode = step, execution.say, execution.mode
        self._take: Callable[[], None] = step
        self._on_gpu = step.device.type == "cuda"
        self._side = torch.cuda.Stream(step.device) if self._on_gpu and self._mode != "eager" else None
        self._first = 0 if self._mode == "eager" else WARM_UP if self._on_gpu else 1
        if self._mode == "graph" and not self._on_gpu:
            self._fall_back("no CUDA device")
        if self._mode == "compiled":
            step.forward = torch.compile(step.network, dynamic=False)

    def __call__(self, steps: int) -> None:
        """Take some steps."""
        for _ in range(steps):
            if self._first:
                self._warm_up()
            else:
                self._take()

    def _warm_up(self) -> None:
        self._first -= 1
        try:
            _beside(self._step, self._side)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._mode != "compiled":
                raise
            # The compiler fails before anything is computed, so the step is still to be taken.
            self._without_compiler(error)
            _beside(self._step, self._side)
        if self._on_gpu and self._first == 0 and self._mode != "eager":
            self._record()

    def _record(self) -> None:
        try:
            self._take = _recorded(self._step)
        except RuntimeError as error:  # out of memory too: a recording keeps a pool of its own
            self._step.model.zero_grad(set_to_none=True)
            self._fall_back(error)

    def _without_compiler(self, reason: object) -> None:
        """Record the plain network on a GPU, whose eager steps take several times as long; else fall back."""
        if not self._on_gpu:
            self._fall_back(reason)
            return
        self._say(f"training steps are recorded, not compiled: {_in_a_line(reason)}")
        self._mode, self._first, self._step.forward = "graph", WARM_UP - 1, self._step.network

    def _fall_back(self, reason: object) -> None:
        self._say(f"training steps are executed eagerly, not by {self._mode}: {_in_a_line(reason)}")
        self._mode, self._first, self._step.forward = "eager", 0, self._step.network


def _in_a_line(reason: object) -> str:
    return next(iter(str(reason).splitlines()), "") or type(reason).__name__


def _beside(step: Step, side: "torch.cuda.Stream | None") -> None:
    """Autograd remembers the streams of its first passes; on the default stream they could not be recorded later."""
    if side is None:
        step()
        return
    side.wait_stream(torch.cuda.current_stream(step.device))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(step.device).wait_stream(side)


def _recorded(step: Step) -> Callable[[], None]:
    """Record a step without executing it; what is returned replays it."""
    graph = torch.cuda.CUDAGraph()
    # Its own gradients must come from the recording's memory: `step` frees those of the step before first of all.
    with torch.cuda.device(step.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    replay: Callable[[], None] = graph.replay
    return replay
