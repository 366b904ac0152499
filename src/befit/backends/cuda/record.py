"""Recording with CUDA graphs. The only file that needs a card to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Out = TypeVar("Out")


class CudaRecording(Generic[Out]):
    """A captured graph and the tensors that it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, out: Out) -> None:
        self._graph = graph
        self._out = out

    def replay(self) -> Out:
        """Launch the graph on the current stream."""
        self._graph.replay()
        return self._out


class CudaRecorder:
    """Captures steps; all graphs share one pool of memory, since only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Out]) -> CudaRecording[Out]:
        """Run once on a stream of its own, so that kernels are compiled and workspaces made, then capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = run()
        return CudaRecording(graph, out)
