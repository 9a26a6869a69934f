"""How training steps are executed: eagerly, recorded in a CUDA graph, or compiled.

Where recording or compiling fails, the steps are executed eagerly.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from autodistill.records import Mode
from autodistill.training.step import Step

WARM_UP = 3
"""Steps before a recording. In these steps the optimiser creates its buffers, and cuDNN and cuBLAS choose kernels."""


class Execution(NamedTuple):
    """How the steps of a run are executed."""

    mode: Mode = "eager"
    """`graph` records the whole step in a CUDA graph. `compiled` compiles the network, and on a GPU also records."""
    say: Callable[[str], None] = lambda _: None
    """Called with a line of text when the mode does not work and the steps are executed in another way."""


EAGER = Execution()


class StepRunner:
    """Executes the steps of a run. The warm-up steps before a recording are steps of the run too."""

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
        """Execute the next `steps` steps."""
        for _ in range(steps):
            if self._first:
                self._warm_up()
            else:
                self._take()

    def _warm_up(self) -> None:
        self._first -= 1
        try:
            _on_stream(self._step, self._side)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._mode != "compiled":
                raise
            # The compiler fails before it computes anything, so this step still has to be executed.
            self._without_compiler(error)
            _on_stream(self._step, self._side)
        if self._on_gpu and self._first == 0 and self._mode != "eager":
            self._record()

    def _record(self) -> None:
        try:
            self._take = _recorded(self._step)
        except RuntimeError as error:  # also out of memory: a recording has a memory pool of its own
            self._step.model.zero_grad(set_to_none=True)
            self._fall_back(error)

    def _without_compiler(self, reason: object) -> None:
        """Record the plain network on a GPU, where eager steps take several times as long; else execute eagerly."""
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


def _on_stream(step: Step, side: "torch.cuda.Stream | None") -> None:
    """Execute a step on a side stream.

    Autograd keeps the stream of its first passes. Passes on the default stream cannot be recorded later.
    """
    if side is None:
        step()
        return
    side.wait_stream(torch.cuda.current_stream(step.device))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(step.device).wait_stream(side)


def _recorded(step: Step) -> Callable[[], None]:
    """Record a step without executing it, and return the function that replays it."""
    graph = torch.cuda.CUDAGraph()
    # The gradients must be allocated in the memory pool of the recording: `step` first frees those of the last step.
    with torch.cuda.device(step.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    replay: Callable[[], None] = graph.replay
    return replay
