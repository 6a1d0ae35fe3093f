"""How does the step run that ``fit`` runs? The model's own ``train_function``, traced once.

While Keras traces it, the graph and the symbolic output of every layer are noted, and nothing is
added: the graph is the one that ``fit`` would have run. From the noted graph the step can be built
again without tracing: without XLA, without the remapper, or with one layer's output fetched.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

from divergence_doctor.errors import UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.engine import Ran, run_step
from divergence_doctor.replay.state import layer_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Ways to run the step: eagerly; as ``fit`` would; that without XLA; and without both XLA and the
#: remapper, which fuses ops into one kernel where XLA does not.
Way = Literal["reference", "as-trained", "without-jit", "without-remapper"]
REFERENCE: Final = "reference"
AS_TRAINED: Final = "as-trained"
WITHOUT_JIT: Final = "without-jit"
WITHOUT_REMAPPER: Final = "without-remapper"
#: What XLA says of ops that it has no kernel for; they fail before the first number.
_NOT_COMPILABLE: Final = re.compile(
    r"unsupported operations when trying to compile|tf2xla conversion failed|not compilable"
)


@dataclass(frozen=True, slots=True)
class Tap:
    """One output of one call of a layer in the traced graph.

    Attributes:
        layer: path of the layer.
        call: which call of it, from 0.
        role: ``output``, ``output/1``, ... as in the table ``activations``.
        tensor: the symbolic tensor.
    """

    layer: str
    call: int
    role: str
    tensor: Any


@final
class TrainFunction:
    """The model's own ``train_function``.

    Args:
        model: a built and compiled Keras model; its ``jit_compile`` says whether XLA compiles it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.taps: list[Tap] = []
        #: Seconds of the first step: tracing, compiling and running it.
        self.first_seconds = 0.0
        self._function: Callable[[Any], Any] | None = None
        self._shapes: tuple[str, ...] = ()
        self._graph: Any = None
        self._graphs: dict[tuple[str, ...], Any] = {}
        self._built: dict[tuple[tuple[str, ...], Way], Any] = {}
        self._calls: dict[str, int] = {}

    @property
    def mode(self) -> str:
        """``eager``, ``graph`` or ``xla``."""
        if self.model.run_eagerly:
            return "eager"
        return "xla" if self.model.jit_compile else "graph"

    def forget(self) -> None:
        """Have the step traced again: something that the trace holds as a constant was changed."""
        self._function = None
        self._graphs.clear()
        self._built.clear()

    def run(self, data: Any, way: Way = AS_TRAINED) -> Ran:
        """Run one step on (x, y, sample_weight).

        Raises:
            UsageError: the step cannot run in this way.
        """
        if way == REFERENCE:
            return run_step(self.model, data)
        if way == AS_TRAINED:
            return self._run_own(data)
        return self._run_built(self._build(data, way), data, way)[0]

    def fetch(self, data: Any, tap: Tap) -> tuple[Ran, Any]:
        """Run one step as it was trained, and return what one layer put out (None if it raised).

        Only this one output is fetched: fetching a tensor keeps it from being fused away.
        """
        built = seams.function_of(self._graph_for(data), [tap.tensor], jit=self.mode == "xla")
        ran, extra = self._run_built(built, data, AS_TRAINED)
        return ran, extra[0] if extra else None

    # ------------------------------------------------------------------ its own

    def _run_own(self, data: Any) -> Ran:
        start = time.perf_counter()
        fresh = self._function is None
        function = self._function or self._make()
        self._shapes = _shapes(data)
        with self._noting():
            ran = run_step(self.model, data, lambda packed: function(iter([packed])))
        if _NOT_COMPILABLE.search(ran.raised):
            raise UsageError(
                "not-compilable",
                "XLA cannot compile the step here",
                why=ran.raised[:300],
                fix="replay on the device that it was trained on, or with --no-jit",
            )
        if fresh:
            self.first_seconds = time.perf_counter() - start
        return ran

    def _make(self) -> Callable[[Any], Any]:
        before = self.model.train_function
        with seams.patched(self.model, "train_step", self._train_step):
            self.model.make_train_function(force=True)
        self._function, self.model.train_function = self.model.train_function, before
        return self._function

    def _train_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(data: Any) -> Any:
            graph = seams.graph_in_the_making()
            if graph is not None:
                self._graph = self._graphs[self._shapes] = graph
                self.taps.clear()
                self._calls.clear()
            return original(data)

        return step

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note the layers' outputs if the step is traced inside."""
        with ExitStack() as stack:
            for owner in (seams.layer_class(), seams.operation_class()):
                stack.enter_context(seams.patched(owner, "__call__", self._call))
            yield

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        noting, layers = self, seams.layer_class()
        of_layers = original is vars(layers)["__call__"]

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(operation, layers) is not of_layers:
                return original(operation, *args, **kwargs)
            path = layer_path(operation, noting.model)
            number = noting._calls.get(path, 0)
            noting._calls[path] = number + 1
            outputs = original(operation, *args, **kwargs)
            noting._note(path, number, outputs)
            return outputs

        return call

    def _note(self, path: str, number: int, outputs: Any) -> None:
        import tensorflow as tf

        for position, tensor in enumerate(tf.nest.flatten(outputs)):
            if getattr(tensor, "graph", None) is self._graph and tensor.dtype.is_floating:
                role = "output" if position == 0 else f"output/{position}"
                self.taps.append(Tap(path, number, role, tensor))

    # ------------------------------------------------------------------ built again

    def _graph_for(self, data: Any) -> Any:
        graph = self._graphs.get(_shapes(data))
        if graph is None:
            raise UsageError(
                "not-traced",
                "the step was not traced on a batch of this shape",
                why="it runs eagerly, or has not run yet",
                fix="run it as it was trained first",
            )
        return graph

    def _build(self, data: Any, way: Way) -> Any:
        """Return the traced step as a function of its own, without XLA."""
        key = (_shapes(data), way)
        if key not in self._built:
            self._built[key] = seams.function_of(self._graph_for(data), [], jit=False)
        return self._built[key]

    def _run_built(self, built: Any, data: Any, way: Way) -> tuple[Ran, list[Any]]:
        extra: list[Any] = []

        def step(packed: Any) -> Any:
            logs, fetched = built(packed)
            extra.extend(fetched)
            return logs

        with seams.remapper(on=way != WITHOUT_REMAPPER):
            return run_step(self.model, data, step), extra


def _shapes(data: Any) -> tuple[str, ...]:
    import tensorflow as tf

    return tuple(
        "" if tensor is None else f"{tensor.dtype.name}{tensor.shape}"
        for tensor in tf.nest.flatten(data, expand_composites=True)
    )
