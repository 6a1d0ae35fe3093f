"""Which placeholder stands for which name? The same one wherever the name is met."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Stands where something cannot be told at all.
HIDDEN: Final = "hidden"


@cache
def known() -> frozenset[str]:
    """Return what Keras calls its layers, losses, optimizers, activations and their arguments."""
    text = resources.files(__package__).joinpath("keras_names.txt").read_text(encoding="utf-8")
    return frozenset(text.split()) | frozenset(_WORDS.split())


#: Further names that are nobody's secret.
_WORDS: Final = """
    x y sample_weight loss mse mae iterations loss_scale iteration float16 float32 float64
    bfloat16 int8 int16 int32 int64 uint8 bool string mixed_float16 mixed_bfloat16 float8_e4m3fn
    float8_e5m2 fan_in fan_out fan_avg normal uniform truncated_normal same valid causal
    channels_last channels_first sum sum_over_batch_size mean auto none concat ave mul nearest
    bilinear bicubic int one_hot multi_hot count tf_idf class_name config registered_name
    build_config input_shape compile_config rate train_step call compute_loss compute_gradients
    update add linear <module> <lambda> text InvalidArgumentError ResourceExhaustedError
    NotFoundError InternalError FailedPreconditionError OutOfRangeError UnimplementedError
    AbortedError ValueError TypeError RuntimeError KeyError IndexError AttributeError
    AssertionError ZeroDivisionError OverflowError FloatingPointError NotImplementedError
    NameError MemoryError OSError FileNotFoundError Exception ArithmeticError StopIteration
    UnicodeDecodeError ImportError
"""
#: Last parts of variables' paths by which rules know what a variable is.
_LEAVES: Final = frozenset(
    {
        *("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "embeddings"),
        *("recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "alpha", "scale", "count"),
        *("seed_generator_state", "learning_rate", "iteration", "iterations", "loss_scale"),
        *("dynamic_scale", "step_counter", "mean", "variance", "total", "current_loss_scale"),
    }
)
#: What an optimizer calls what it keeps of a variable, at the end of that variable's name.
_SLOT: Final = re.compile(
    r"_(?:momentum|velocity|velocity_hat|accumulator|average|accumulated_grad|accumulated_delta_var"
    r"|m|v|u|linear|r|c|n|average_gradient|gradient_accumulator|moving_average|exp_avg|exp_avg_sq)$"
)
_OPTIMIZER: Final = re.compile(
    r"(?:adam|adamw|adamax|nadam|sgd|rmsprop|adagrad|adadelta|adafactor|ftrl|lion|lamb|muon"
    r"|loss_scale_optimizer|optimizer)(?:_\d+)?$"
)
#: Names of ours in prose and paths.
_OURS: Final = frozenset(
    {"trace.h5", "minimal_batch.npz", "reproduce.py", "report.md", "report.html", "report.json"}
)
#: Words of our own sentences. A layer that is called so betrays nothing by them.
_OUR_WORDS: Final = """
    a all an and are as at batch by change checkpoint compiled control data dense dropout eager
    each embedding epoch every execution fails false finite first flat for forward from given
    gradient gradients graph held hidden in index input inputs is it its kept label labels last
    layer left log loss losses lower made mask mean missing model more name new no normal not
    nothing of on one op optimizer or out output outputs over partial random rate reference
    replaced restored row rows run sample samples same scale second seed size softmax some state
    step steps still sum target targets test that the them then they this time to total train true
    trained update updates value values variable was weight weights were with within without zero
    zeros
"""
_FILE: Final = re.compile(
    r"[\w+-][\w.+-]*\.(?P<ending>keras|h5|hdf5|npz|npy|py|ipynb|index|pb|ckpt|json|toml|yaml)$"
)
#: A name, a path or a file in prose, with the quotes around it.
_TOKEN: Final = re.compile(r"""(?P<open>['"`]?)(?P<token>[^\s'"`,;()\[\]{}=]+)""")
_ENDS: Final = ".:!?"


@cache
def _our_words() -> frozenset[str]:
    return frozenset(_OUR_WORDS.split())


@final
class Names:
    """Which placeholder stands for which name, in the order in which they come up.

    Args:
        layers: paths of the layers; theirs are the first numbers, in their order.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        self._parts: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        #: Whole names with what stands for them, for prose and parameters.
        self._spoken: dict[str, str] = {}
        #: Variables as optimizers write them into the names of their own.
        self._flat: dict[str, str] = {}
        self._odd: tuple[int, list[str]] | None = None
        for layer in layers:
            self.told("path", layer)

    def told(self, method: str, text: str) -> str:
        """Return a text by one of the other methods; an empty one stays empty."""
        if not text:
            return text
        told: str = getattr(self, method)(text)
        return told

    def _place(self, kind: str, name: str) -> str:
        """Return the placeholder of one name, a new one when it is first met."""
        key = f"{kind}\0{name}" if kind in {"file", "function"} else name
        if key not in self._parts:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._parts[key] = f"{kind}_{self._counts[kind]}"
        return self._parts[key]

    def _say(self, name: str, placeholder: str) -> str:
        if name != placeholder:
            self._spoken.setdefault(name, placeholder)
        return placeholder

    # ------------------------------------------------------------------ by kind

    def op(self, name: str) -> str:
        """Return the type of an op: TensorFlow's own word."""
        return name

    def hidden(self, _name: str) -> str:
        """Return what says no more than that there was something."""
        return HIDDEN

    def argument(self, name: str) -> str:
        """Return the name of an optimizer's argument: Keras' own stays."""
        return name if name in known() else HIDDEN

    def path(self, path: str) -> str:
        """Return the path of a layer."""
        parts = [self._place("layer", part) for part in path.split("/")]
        for part, placeholder in zip(path.split("/"), parts, strict=True):
            self._say(part, placeholder)
        return self._say(path, "/".join(parts))

    def variable(self, path: str) -> str:
        """Return the path of a variable; what Keras calls it stays."""
        *owner, leaf = path.split("/")
        parts = [self._place("layer", part) for part in owner]
        parts.append(leaf if leaf in _LEAVES else self._place("variable", leaf))
        placeholder = self._say(path, "/".join(parts))
        self._flat[path.replace("/", "_")] = placeholder.replace("/", "_")
        return placeholder

    def slot(self, path: str) -> str:
        """Return the path of an optimizer's variable: optimizer, variable of the model, kind."""
        if path in self._spoken:
            return self._spoken[path]
        owner, _, name = path.rpartition("/")
        if not owner or not _OPTIMIZER.match(owner.partition("/")[0]):
            return self.variable(path)
        kind = _SLOT.search(name)
        bare = name[: kind.start()] if kind else name
        held = self._flat.get(bare) or (bare if bare in _LEAVES else self._place("variable", bare))
        parts = [part if _OPTIMIZER.match(part) else HIDDEN for part in owner.split("/")]
        return self._say(path, "/".join([*parts, held + (kind.group() if kind else "")]))

    def array(self, name: str) -> str:
        """Return the name of an array of the batch: x, y and the like stay."""
        if re.fullmatch(r"(?:x|y|sample_weight)(?:_\d+)?", name) or not name:
            return name
        kept = {"x", "y", "sample_weight", "values", "row_splits"}
        parts = [part if part in kept else self._place("array", part) for part in name.split("/")]
        for part, placeholder in zip(name.split("/"), parts, strict=True):
            self._say(part, placeholder)
        return self._say(name, "/".join(parts))

    def output(self, name: str) -> str:
        """Return the name of an output or of a term of the loss."""
        if name in known():
            return name
        return self._say(name, self._parts.get(name) or self._place("output", name))

    def kind(self, name: str) -> str:
        """Return the name of a class or function: Keras' own stays."""
        if name in known():
            return name
        # Rules know layers that normalise by what they are called.
        ending = next(
            (end for end in ("BatchNormalization", "Normalization") if name.endswith(end)), ""
        )
        return self._say(name, self._place("class", name) + ending)

    def source(self, source: str) -> str:
        """Return a line of the user's code: ``file_1.py:41``."""
        name, colon, line = source.rpartition(":")
        if not colon or not line.isdigit():
            return self.file(source)
        return self._say(source, f"{self.file(name)}:{line}") if source else source

    def file(self, path: str) -> str:
        """Return a file without its folders: ``file_1.py``."""
        name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
        if not name or name in _OURS:
            return name
        ending = _FILE.search(name)
        placeholder = self._place("file", path) + (f".{ending['ending']}" if ending else "")
        self._say(name, placeholder)
        return self._say(path, placeholder)

    def stack(self, stack: str) -> str:
        """Return frames: file, line and function of each."""
        return "\n".join(self._frame(line) for line in stack.split("\n"))

    def _frame(self, line: str) -> str:
        where, between, function = line.partition(" in ")
        if not between:
            return self.source(line)
        called = function if function in known() else self._place("function", function)
        return f"{self.source(where)} in {called}"

    # ------------------------------------------------------------------ text and JSON

    def _awkward(self) -> list[str]:
        """Return the names that no token of prose can be, the longest first."""
        if self._odd is None or self._odd[0] != len(self._spoken):
            odd = (name for name in self._spoken if len(name) > 2 and not _TOKEN.fullmatch(name))
            self._odd = len(self._spoken), sorted(odd, key=len, reverse=True)
        return self._odd[1]

    def prose(self, text: str) -> str:
        """Return a sentence in which known names, and whatever looks like a file, are replaced."""
        for name in self._awkward():
            if name in text:
                text = text.replace(name, self._spoken[name])
        return _TOKEN.sub(self._token, text)

    def _token(self, found: re.Match[str]) -> str:
        token = found["token"]
        bare = token.rstrip(_ENDS)
        is_quoted = bool(found["open"])
        return found["open"] + self._word(bare, is_quoted=is_quoted) + token[len(bare) :]

    def _word(self, word: str, *, is_quoted: bool) -> str:
        if word in self._spoken:
            own = not is_quoted and (word.lower() in _our_words() or len(word) < 2)
            return word if own else self._spoken[word]
        name, colon, line = word.rpartition(":")
        if colon and line.isdigit() and _FILE.search(name):
            return self.source(word)
        if word in _OURS or not _FILE.search(word):
            parts = word.split("/")
            if len(parts) > 1 and any(part in self._parts for part in parts):
                return "/".join(self._parts.get(part, part) for part in parts)
            return word
        return self.file(word)

    def config(self, text: str) -> str:
        """Return JSON, e.g. a layer's config, with Keras' own keys and words only."""
        try:
            return json.dumps(self.value(json.loads(text)))
        except (ValueError, RecursionError):
            return "{}"

    def value(self, value: Any) -> Any:
        """Return a JSON value: numbers stay, names are replaced, unknown words are hidden."""
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items() if key in known()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, str) or value in known() or not value:
            return value
        if value.startswith(("keras.", "builtins")):
            return value
        return self._spoken.get(value, HIDDEN)

    def parameters(self, text: str) -> str:
        """Return the parameters of a trial as JSON: our own keys and words, their names."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "{}"
        return json.dumps(walked(found, self._parameter), sort_keys=True)

    def _parameter(self, text: str) -> str:
        return self._spoken[text] if text in self._spoken else self.prose(text)


def walked(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with every string in it changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: walked(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [walked(item, change) for item in value]
    return value
