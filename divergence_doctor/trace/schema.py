"""What does a trace hold? The tables, their columns, and what one row of each means.

FORMAT.md says the same for readers in other languages; a test keeps the two alike. Columns that a
statistic contributes (``STATISTICS``) stand in every table marked ``tensor=True``; a table may hold
further columns, and a reader ignores those that it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["int", "float", "bool", "str", "histogram"]

ENCODING_TYPE: Final = "divergence-doctor/trace"
ENCODING_VERSION: Final = 1

#: Base-2 exponents of the histogram's bins: ``EXPONENTS[i] == floor(log2(abs(value)))`` of what
#: bin i counts. -149 is float32's smallest subnormal, 127 its largest binade; float64 values
#: beyond are counted in the first and the last bin, which is why those stand one step outside.
EXPONENT_MIN: Final = -150
EXPONENT_MAX: Final = 128
EXPONENT_BINS: Final = EXPONENT_MAX - EXPONENT_MIN + 1


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its name, what its values are, and what they mean."""

    name: str
    kind: Kind
    meaning: str
    units: str = ""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table: what a row is, its key columns, and whether rows describe a tensor."""

    name: str
    row: str
    columns: tuple[Column, ...]
    tensor: bool = False

    def all_columns(self) -> tuple[Column, ...]:
        """Return the key columns followed by the statistics, where the rows describe tensors."""
        return self.columns + (STATISTICS if self.tensor else ())


STATISTICS: Final[tuple[Column, ...]] = (
    Column("size", "int", "number of elements", "1"),
    Column("nan", "int", "elements that are NaN", "1"),
    Column("posinf", "int", "elements that are +Inf", "1"),
    Column("neginf", "int", "elements that are -Inf", "1"),
    Column("zero", "int", "elements that are zero of either sign", "1"),
    Column("subnormal", "int", "elements below the dtype's smallest normal number", "1"),
    Column("negative", "int", "finite elements below zero", "1"),
    Column("min", "float", "smallest finite element; NaN when there is none"),
    Column("max", "float", "largest finite element; NaN when there is none"),
    Column("mean", "float", "mean of the finite elements, accumulated in float64"),
    Column("std", "float", "population standard deviation of the finite elements"),
    Column("l2", "float", "Euclidean norm of the finite elements, accumulated in float64"),
    Column("absmax", "float", "largest magnitude among the finite elements"),
    Column("exponents", "histogram", "finite non-zero elements by floor(log2(|x|))", "1"),
)

_STEP = Column("step", "int", "replayed step, from 0")
_ORDER = Column("order", "int", "place in the order of execution within the step")
_LAYER = Column("layer", "str", "path of the layer as Keras gives it; empty outside any layer")
_CLASS = Column("layer_class", "str", "class of the layer")
_TIME = Column(
    "time",
    "int",
    "time step of the recurrent layer (or TimeDistributed) it ran in, as the input counts them "
    "from 0; -1 outside one",
)
_DTYPE = Column("dtype", "str", "dtype of the tensor")
_SHAPE = Column("shape", "str", "shape of the tensor, e.g. 32x28x28x1; empty for a scalar")
_VARIABLE = Column("variable", "str", "path of the variable as Keras gives it")
_OP = Column("op", "int", "place of the op in the step's stream of ops, from 0")
_OP_TYPE = Column("op_type", "str", "TensorFlow op type, e.g. Log")
_PHASE = Column("phase", "str", "forward, loss, backward, clipping or update")
_SOURCE = Column("source", "str", "the user's own line that ran it, file:line; empty if none")

TABLES: Final[dict[str, TableSpec]] = {
    spec.name: spec
    for spec in (
        TableSpec(
            "steps",
            "one replayed step",
            (
                _STEP,
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("loss", "float", "loss of this step (not the running mean)"),
                Column("learning_rate", "float", "learning rate used; NaN when unknown"),
                Column("loss_scale", "float", "loss scale before the step; NaN without one"),
                Column(
                    "gradient_norm",
                    "float",
                    "L2 norm of all variable gradients together; NaN unless all are finite",
                ),
                Column(
                    "update_norm",
                    "float",
                    "L2 norm of all updates together; NaN unless all are finite",
                ),
                Column("weight_norm", "float", "L2 norm of all trainable weights before the step"),
                Column("loss_finite", "bool", "the loss is finite"),
                Column("gradients_finite", "bool", "every variable gradient is finite"),
                Column(
                    "state_finite", "bool", "weights, moving statistics and slots are finite after"
                ),
                Column("skipped", "bool", "loss scaling skipped the update on purpose"),
                Column("ops", "int", "ops executed"),
                Column("seconds", "float", "wall time of the watched step", "s"),
                Column(
                    "raised", "str", "message of the exception that ended the step; empty if none"
                ),
                Column("raised_type", "str", "class of that exception"),
                Column("raised_op", "str", "op type that raised"),
                Column("raised_layer", "str", "layer in which it was raised"),
                Column("raised_phase", "str", "phase in which it was raised"),
                Column("raised_source", "str", "the user's own line that raised"),
                Column("raised_stack", "str", "the user's frames, innermost last, one per line"),
            ),
        ),
        TableSpec(
            "layers",
            "one layer (or operation) of the model, in the order of its first call",
            (
                _ORDER,
                _LAYER,
                _CLASS,
                Column("activation", "str", "name of the activation function; empty if none"),
                Column("dtype", "str", "dtype policy of the layer"),
                Column("parameters", "int", "number of weights the layer holds", "1"),
                Column("config", "str", "the layer's config as JSON; its plain entries when long"),
            ),
        ),
        TableSpec(
            "activations",
            "one tensor that a layer put out (role output, output/1, ...) or that was fed in",
            (
                _STEP,
                _ORDER,
                _LAYER,
                _CLASS,
                Column("call", "int", "which call of this layer in this step, from 0"),
                _TIME,
                Column("role", "str", "input (of the model), output, output/1, ..."),
                Column(
                    "dead_units",
                    "int",
                    "units (along the last axis) that are 0 all over the batch; -1 where a value is"
                    " negative or not finite",
                    "1",
                ),
                Column(
                    "near_one",
                    "int",
                    "elements of magnitude 1 - 2**-9 to 1; -1 where one is beyond or not finite",
                    "1",
                ),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "gradients",
            "one gradient: what came back to a layer's output (variable empty), or of a variable",
            (
                _STEP,
                _ORDER,
                _LAYER,
                _CLASS,
                Column(
                    "call",
                    "int",
                    "which call of this layer the gradient belongs to; -1 for a variable",
                ),
                _TIME,
                Column("variable", "str", "path of the variable; empty for a layer's output"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "weights",
            "one variable of the model at one moment",
            (
                _STEP,
                _ORDER,
                Column("when", "str", "before or after the step's update"),
                _VARIABLE,
                _LAYER,
                _CLASS,
                Column("trainable", "bool", "the optimizer changes it"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "updates",
            "what one step added to one trainable variable",
            (
                _STEP,
                _ORDER,
                _VARIABLE,
                _LAYER,
                Column("ratio", "float", "L2 of the update over L2 of the value before"),
                Column("after_nonfinite", "int", "NaN and Inf in the value after the step", "1"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "slots",
            "one variable of an optimizer at one moment",
            (
                _STEP,
                _ORDER,
                Column("when", "str", "before or after the step's update"),
                _VARIABLE,
                Column("optimizer", "str", "class of the optimizer that owns it"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "hyperparameters",
            "one number that an optimizer steps by, as a step begins",
            (
                _STEP,
                Column("optimizer", "int", "which optimizer of the model, the compiled one first"),
                Column("optimizer_class", "str", "class of the optimizer, inside a loss scale"),
                Column("name", "str", "name of its argument; iterations and loss_scale too"),
                Column("value", "float", "its value; a row is there only where it is known"),
                Column("default", "float", "what the class takes when it is left out; else NaN"),
                Column("schedule", "str", "class of its learning rate schedule; empty if none"),
            ),
        ),
        TableSpec(
            "defects",
            "where the bad elements of one variable lie as it was loaded",
            (
                Column("owner", "str", "weights or slots"),
                _VARIABLE,
                Column("kind", "str", "nan, inf or negative (what may not be below zero)"),
                Column("count", "int", "bad elements", "1"),
                Column("size", "int", "number of elements", "1"),
                Column(
                    "pattern",
                    "str",
                    "cell, row (of the first axis), column (of the last axis), block, scattered or "
                    "whole",
                ),
                Column("axes", "str", "bad indices by axis, how many, as a JSON list"),
                Column("indices", "str", "the first bad indices by axis, as a JSON list of lists"),
                Column("index", "str", "index of the first bad element, e.g. 3,0"),
                _SHAPE,
            ),
        ),
        TableSpec(
            "normalizations",
            "one layer that normalises by the batch, its statistics beside the moving ones",
            (
                _STEP,
                _LAYER,
                _CLASS,
                Column("channels", "int", "channels that are normalised", "1"),
                Column("calls", "int", "calls of the layer in this step", "1"),
                Column("momentum", "float", "share of the moving statistics that a call keeps"),
                Column("fresh", "bool", "means of 0 and variances of 1: no step has been taken"),
                Column(
                    "shift_median",
                    "float",
                    "distance of the batch's mean from the moving mean, in moving standard "
                    "deviations; median over the channels",
                ),
                Column("shift_max", "float", "the same, largest"),
                Column(
                    "growth_median",
                    "float",
                    "standard deviation of the batch over the moving one; median over the channels",
                ),
                Column("growth_min", "float", "the same, smallest"),
                Column("growth_max", "float", "the same, largest"),
            ),
        ),
        TableSpec(
            "losses",
            "one term of the loss",
            (
                _STEP,
                _ORDER,
                Column("name", "str", "name of the term"),
                Column("value", "float", "its value, before loss weights"),
            ),
        ),
        TableSpec(
            "targets",
            "one output of the model with the loss that judges it",
            (
                Column("output", "str", "name of the output"),
                Column("array", "str", "name of the label array, e.g. y or y/mask"),
                Column(
                    "loss", "str", "Keras class name of the built-in loss, or the function's name"
                ),
                Column("builtin", "bool", "the loss is one of Keras' own"),
                Column("from_logits", "bool", "the loss expects logits"),
                Column("classes", "int", "size of the prediction's last axis; -1 when unknown"),
                Column("ignore_class", "int", "label that the loss ignores; -1 when none"),
                Column("activation", "str", "activation of the layer that makes the output"),
                Column("config", "str", "config of the loss as JSON"),
            ),
        ),
        TableSpec(
            "batch",
            "one array of a batch",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("name", "str", "name of the array, e.g. x, x/image, y, sample_weight"),
                Column("role", "str", "x, y or sample_weight"),
                Column("integral", "bool", "every finite value is a whole number"),
                Column("feature_std_max", "float", "largest standard deviation of one feature"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "cells",
            "one cell of a batch that is NaN or Inf (the first 1,000 of each array)",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("name", "str", "name of the array"),
                Column("sample", "int", "index along the first axis"),
                Column("index", "str", "full index, e.g. 3,0,17"),
                Column("value", "float", "the value"),
            ),
        ),
        TableSpec(
            "samples",
            "one array of one sample of a batch",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("sample", "int", "index along the first axis"),
                Column("name", "str", "name of the array"),
                Column("role", "str", "x, y or sample_weight"),
                Column("nonfinite", "int", "NaN and Inf in it", "1"),
                Column("zero", "int", "zeros in it", "1"),
                Column("size", "int", "elements in it", "1"),
                Column("min", "float", "smallest finite value; NaN when there is none"),
                Column("max", "float", "largest finite value; NaN when there is none"),
                Column(
                    "second_min",
                    "float",
                    "smallest finite value above `min`; NaN when there is none",
                ),
                Column(
                    "second_max",
                    "float",
                    "largest finite value below `max`; NaN when there is none",
                ),
                Column("integral", "bool", "every finite value is a whole number"),
                Column(
                    "repeats",
                    "int",
                    "equal neighbours other than 0 in a row of labels; -1 for anything else",
                    "1",
                ),
                Column(
                    "inner_zeros",
                    "int",
                    "zeros before the last other value in a row of labels; -1 for anything else",
                    "1",
                ),
            ),
        ),
        TableSpec(
            "sample_losses",
            "the loss of one sample, where the loss is computed per sample",
            (
                _STEP,
                Column("name", "str", "name of the loss term"),
                Column("sample", "int", "index along the first axis"),
                Column("value", "float", "mean of the loss over the sample's elements"),
            ),
        ),
        TableSpec(
            "events",
            "one op whose output (or derivative) is not finite, in the order of execution",
            (
                _STEP,
                _OP,
                _OP_TYPE,
                Column("inner_op", "str", "op type that ran; another one within a derivative"),
                _PHASE,
                Column("derivative", "bool", "it happened in the derivative of this (forward) op"),
                _LAYER,
                _CLASS,
                Column("call", "int", "which call of the layer in this step; -1 outside a layer"),
                _TIME,
                _SOURCE,
                Column("nan", "int", "NaN in its output", "1"),
                Column("posinf", "int", "+Inf in its output", "1"),
                Column("neginf", "int", "-Inf in its output", "1"),
                Column("produced", "bool", "its inputs were finite: it made the bad value"),
                Column(
                    "origin", "str", "where the bad value came from: op, batch, variable, constant"
                ),
                Column("origin_name", "str", "name of that array or variable, or op type"),
                Column(
                    "reaches", "str", "loss, gradient, state, or empty when it reaches none of them"
                ),
                Column("term", "str", "the first term of the loss that died of it; primary only"),
                Column(
                    "primary", "bool", "the first producer of what reached loss, gradient or state"
                ),
                Column(
                    "divides",
                    "bool",
                    "its layer divides by what the (forward) op put out; primary only",
                ),
                Column("element", "str", "index of the first bad element"),
                Column(
                    "samples", "str", "samples of the batch that hold bad elements, as a JSON list"
                ),
                Column("message", "str", "what tf.debugging.check_numerics says of it"),
                Column("stack", "str", "the user's frames, innermost last, one per line"),
            ),
        ),
        TableSpec(
            "operands",
            "one tensor around a producing event: what went in and what came out",
            (
                _STEP,
                _OP,
                Column("position", "int", "which input or output, from 0"),
                Column("role", "str", "input, output, upstream (gradient in) or gradient (out)"),
                Column("origin", "str", "op, batch, variable or constant"),
                Column("origin_name", "str", "op type, array name or variable path it came from"),
                Column("origin_layer", "str", "layer whose op made it"),
                Column("value", "float", "its value at the first bad element; NaN where none fits"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "chain",
            "one link of the chain that made a primary event's input dangerous, nearest first",
            (
                _STEP,
                _OP,
                Column("link", "int", "distance from the primary event"),
                Column("what", "str", "op, variable, batch or constant"),
                Column("name", "str", "op type, variable path or array name"),
                _LAYER,
                _PHASE,
                _SOURCE,
                Column("followed", "bool", "the way to the bad element leads through one element"),
                Column(
                    "index",
                    "str",
                    "index of that element, e.g. 5,0; a colon for an axis all along which it is so",
                ),
                Column("value", "float", "its value; NaN where no element could be followed"),
                Column("through", "str", "how the next nearer link was made from it, in words"),
                Column(
                    "beside",
                    "str",
                    "of a product or a choice, the op type that made the other side; empty if none",
                ),
                Column(
                    "ordinary_low", "float", "least magnitude that is ordinary here; 0 where any is"
                ),
                Column("ordinary_high", "float", "largest magnitude that is ordinary here"),
                Column("departed", "bool", "nearest the source of those beyond the ordinary range"),
                _DTYPE,
                _SHAPE,
            ),
            tensor=True,
        ),
        TableSpec(
            "float32",
            "one tensor around a primary event of half precision, or around a link of its chain, "
            "beside the same tensor with that step computed in float32",
            (
                _STEP,
                _OP,
                Column(
                    "link",
                    "int",
                    "link of the chain whose op it is about; -1 for the event's own, -2 for the "
                    "forward op that the event is the derivative of",
                ),
                _OP_TYPE,
                Column("role", "str", "input or output of that op"),
                Column("position", "int", "which input or output, from 0"),
                Column("origin", "str", "op, batch, variable or constant"),
                _DTYPE,
                Column("value", "float", "its value at the element followed; NaN where none fits"),
                Column("float32", "float", "the same in float32"),
                Column("absmax", "float", "largest magnitude among its finite elements"),
                Column("float32_absmax", "float", "the same in float32"),
                Column("nonfinite", "int", "NaN and Inf in it", "1"),
                Column("float32_nonfinite", "int", "the same in float32", "1"),
                Column(
                    "step_finite", "bool", "all that mattered in that step is finite in float32"
                ),
            ),
        ),
        TableSpec(
            "harmless",
            "one place whose non-finite values reached neither loss nor gradient nor state",
            (
                _STEP,
                Column("what", "str", "where it arose: op, batch, variable or constant"),
                Column("name", "str", "op type, array name or variable path"),
                _LAYER,
                _PHASE,
                _SOURCE,
                Column("times", "int", "how many such tensors of this place in this step", "1"),
                Column("nan", "int", "NaN in them", "1"),
                Column("posinf", "int", "+Inf in them", "1"),
                Column("neginf", "int", "-Inf in them", "1"),
                Column("reason", "str", "the mechanism: mask, max-pooling, skipped-step, ..."),
                Column("because", "str", "the mechanism in words"),
                Column("ended_in", "str", "op type that took it in and put out finite numbers"),
                Column("ended_layer", "str", "layer that this op ran in"),
                Column("ended_source", "str", "the user's own line that ran this op"),
            ),
        ),
        TableSpec(
            "divisions",
            "one division by almost nothing whose finite result is large, where it is largest",
            (
                _STEP,
                _OP,
                _OP_TYPE,
                _PHASE,
                _LAYER,
                _CLASS,
                _SOURCE,
                Column("numerator", "float", "what was divided"),
                Column("denominator", "float", "what it was divided by"),
                Column("quotient", "float", "the result"),
                Column("samples", "str", "samples of the batch it holds for, as a JSON list"),
            ),
        ),
        TableSpec(
            "directions",
            "one real update of the failing run, measured off the watched step",
            (
                _STEP,
                Column("loss", "float", "loss before the update, L(w)"),
                Column("loss_after", "float", "loss on the same batch after it, L(w + D)"),
                Column("slope", "float", "gradient times update, g'D; below zero it goes downhill"),
                Column(
                    "curvature",
                    "float",
                    "update times Hessian times update, D'HD; NaN where it cannot be had",
                ),
                Column("overshoot", "float", "0.5 D'HD / |g'D|: beyond 1 a parabola would rise"),
                Column("gain", "float", "(L(w + D) - L(w)) / g'D: 1 as the gradient promised"),
                Column(
                    "longest",
                    "float",
                    "largest k up to which the loss stays at or below L(w); NaN if not asked for",
                ),
                Column("learning_rate", "float", "learning rate of the step; NaN when unknown"),
            ),
        ),
        TableSpec(
            "along_update",
            "the loss at one multiple of a real update, all else as before the step",
            (
                _STEP,
                Column("scale", "float", "multiple k of the update; 1 is the step that was taken"),
                Column("loss", "float", "L(w + k D); NaN where the step raises there"),
            ),
        ),
        TableSpec(
            "executions",
            "one replayed step run once more, the way it was trained or with one thing off",
            (
                _STEP,
                Column(
                    "execution",
                    "str",
                    "as-trained, without-jit, or without-remapper (and without jit)",
                ),
                Column("mode", "str", "eager, graph or xla"),
                Column("remapper", "bool", "grappler's remapper, which fuses kernels, is on"),
                Column("onednn", "bool", "oneDNN's kernels are on"),
                Column("loss", "float", "loss of this step; NaN too where none was logged"),
                Column("measured", "bool", "the step logged a loss"),
                Column("loss_finite", "bool", "the loss was logged and is finite"),
                Column("state_finite", "bool", "weights, moving statistics and slots are finite"),
                Column("raised", "str", "message of the exception that ended it; empty if none"),
                Column("raised_type", "str", "class of that exception"),
                Column(
                    "differs",
                    "str",
                    "what differs from the reference: raised, loss, state, value; empty if nothing",
                ),
                Column("difference", "float", "relative difference of the numbers, for a value"),
                Column("tolerance", "float", "relative difference that rounding may make"),
                Column("comparable", "bool", "both draw the same random numbers, if they draw any"),
                Column("variable", "str", "variable that is not finite, or differs most"),
                _LAYER,
                _CLASS,
                Column("phase", "str", "phase in which the two part; empty if not known"),
                Column(
                    "reference_nonfinite", "int", "NaN and Inf in that layer's output, reference"
                ),
                Column("nonfinite", "int", "NaN and Inf in that layer's output, as trained"),
                Column("seconds", "float", "wall time, the first with tracing", "s"),
            ),
        ),
        TableSpec(
            "subsets",
            "one run on a part of the failing step's batch, in search of the samples to blame",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("order", "int", "place in the order of the search, from 0"),
                Column("samples", "str", "samples that were kept, as a JSON list"),
                Column(
                    "copy",
                    "int",
                    "sample whose copies stood in place of the others; -1 where they were left out",
                ),
                Column(
                    "outcome", "str", "finite, same-failure, other-failure or refused by the model"
                ),
                Column("detail", "str", "what was seen, or why the model refused it"),
                Column("seconds", "float", "wall time; 0 where an earlier trial had told", "s"),
            ),
        ),
        TableSpec(
            "culprits",
            "one sample whose removal mends the step, or one cell of it whose replacement does",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("sample", "int", "index along the first axis"),
                Column("array", "str", "name of the cell's array; empty for the whole sample"),
                Column("index", "str", "full index of the cell, e.g. 3,0,17; empty for a sample"),
                Column("value", "float", "the cell's value"),
                Column(
                    "evidence",
                    "str",
                    "left-out or copied-over for a sample; non-finite, out-of-range, fed-to-op, "
                    "outlier or halving for a cell",
                ),
            ),
        ),
        TableSpec(
            "excerpts",
            "what one array of one sample to blame holds: a small picture, or its first values",
            (
                Column("batch", "int", "index of the batch in the given sequence"),
                Column("sample", "int", "index along the first axis"),
                Column("name", "str", "name of the array"),
                Column("role", "str", "x, y or sample_weight"),
                _DTYPE,
                Column("shape", "str", "shape of the sample, e.g. 28x28x1; empty for a scalar"),
                Column("size", "int", "elements in it", "1"),
                Column("kept", "int", "numbers kept in `values`", "1"),
                Column("height", "int", "height of the picture; -1 where it is none", "px"),
                Column("width", "int", "width of the picture; -1 where it is none", "px"),
                Column("channels", "int", "1 or 3; -1 where it is no picture", "1"),
                Column("low", "float", "value that level 0 of the picture stands for"),
                Column("high", "float", "value that level 255 stands for"),
                Column(
                    "values",
                    "str",
                    "JSON list: a picture's levels from 0 to 255 row by row, -1 for what is not"
                    " finite; else the first values, flattened",
                ),
            ),
        ),
        TableSpec(
            "trials",
            "one intervention: the same steps with one thing changed",
            (
                Column("name", "str", "name of the trial"),
                Column("cause", "str", "cause that it was run to test; empty for the control"),
                Column("parameters", "str", "its parameters as JSON"),
                Column("changed", "str", "what was changed, in words"),
                Column(
                    "breadth",
                    "int",
                    "0 control, 1 changes the point, 2 a family, 3 mends nearly everything",
                ),
                Column("outcome", "str", "finite, still-fails or not-run"),
                Column("detail", "str", "what was seen"),
                Column("steps", "int", "steps that stayed finite"),
                Column("loss_first", "float", "loss of its first step"),
                Column("loss_last", "float", "loss of its last step"),
                Column("seconds", "float", "wall time", "s"),
            ),
        ),
        TableSpec(
            "attempts",
            "one setting that a trial tried on its way to the mildest one that mends the step",
            (
                Column("trial", "str", "name of the trial"),
                Column("parameters", "str", "the trial's parameters as JSON"),
                Column("setting", "str", "what was set: divisor of the rate, or global_clipnorm"),
                Column("value", "float", "its value"),
                Column("outcome", "str", "finite, still-rises or still-fails"),
                Column("detail", "str", "what was seen"),
            ),
        ),
        TableSpec(
            "repeats",
            "one step of the untouched steps run again: same start, same seeds, same process",
            (
                Column("run", "int", "which run; 0 is the watched replay"),
                Column("watched", "bool", "it ran under the watch, which may change the rounding"),
                _STEP,
                Column("loss", "float", "loss of this step"),
                Column("failed", "bool", "the step failed: loss, gradients or state not finite"),
                Column("lived", "bool", "the whole run stayed finite and did not run away"),
            ),
        ),
        TableSpec(
            "unseeded",
            "one thing that no seed holds, and that a step changed or asked for",
            (
                Column("kind", "str", "attribute (it changed) or call (it was called)"),
                Column("name", "str", "the attribute with its owner, or the function"),
                _LAYER,
                _SOURCE,
                Column("before", "str", "an attribute's value before the step; empty if long"),
                Column("after", "str", "and after it"),
            ),
        ),
        TableSpec(
            "seeds",
            "the same steps with one seed, where the random state is missing; the replay first",
            (
                Column("seed", "int", "seed of all that draws random numbers"),
                Column("outcome", "str", "diverged, healthy, inconclusive or not-run"),
                Column(
                    "same", "bool", "it ended as the replay did: same first producer, or same kind"
                ),
                Column("failing_step", "int", "step at which it failed; -1 when it did not"),
                _OP_TYPE,
                _LAYER,
                Column("because", "str", "the sentence that the outcome rests on"),
                Column("seconds", "float", "wall time; 0 for the replay itself", "s"),
            ),
        ),
        TableSpec(
            "history",
            "one training step before the failure, as the crash bundle recorded it or as it came "
            "again from the bundle's snapshot",
            (
                Column("step", "int", "training step, counted from 0 by the flight recorder"),
                Column("epoch", "int", "epoch it belongs to; -1 when unknown"),
                Column(
                    "source",
                    "str",
                    "recorded in training, rolled (run again as trained), or watched",
                ),
                Column("loss", "float", "loss as Keras logs it: in fit the epoch's running mean"),
                Column("measured", "bool", "a loss was logged"),
                Column("step_loss", "float", "loss of this step alone; NaN when unknown"),
                Column("learning_rate", "float", "learning rate of the step; NaN when unknown"),
                Column("loss_scale", "float", "loss scale before the step; NaN without one"),
                Column(
                    "gradient_norm",
                    "float",
                    "L2 norm of all variable gradients together; NaN where not measured or not "
                    "finite",
                ),
                Column("bad_variable", "str", "first variable not finite after it; empty if none"),
                Column(
                    "ulp",
                    "int",
                    "units in the last place between its loss and the recorded one; -1 where one "
                    "is not known or not finite",
                ),
            ),
        ),
        TableSpec(
            "ranges",
            "what one layer put out in one watched training step up to the failure",
            (
                Column("step", "int", "training step, counted from 0 by the flight recorder"),
                _ORDER,
                _LAYER,
                _CLASS,
                Column("absmax", "float", "largest magnitude among its finite elements"),
                Column("std", "float", "population standard deviation of its finite elements"),
                Column("nonfinite", "int", "NaN and Inf in it", "1"),
                Column("left", "bool", "far beyond what it was in the first watched step"),
            ),
        ),
    )
}
