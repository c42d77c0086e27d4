"""Every module class of torch.nn, with its parametrizations and quantisation-aware training.

A case puts the class between a layer that can be trained and a last one, and also right on the
data. The classes are listed by looking into torch, not by hand: one that has no case here, as torch
has just got it, is reported as an error.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from validation.coverage.check import Net, examine, no_zeros
from validation.coverage.records import Record

GROUP = "torch.nn"
BATCH, CLASSES = 4, 3
#: The last one's figures are kept.
EPSILONS = (0.1, 0.0, 1e-6)
#: Shape of one input, and the layer that is put in front, by the name of the layout.
LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "features": ((6,), lambda: nn.Linear(6, 6)),
    "tokens": ((5, 6), lambda: nn.Linear(6, 6)),
    "length": ((4, 8), lambda: nn.Conv1d(4, 4, 1)),
    "image": ((4, 6, 6), lambda: nn.Conv2d(4, 4, 1)),
    "volume": ((4, 4, 4, 4), lambda: nn.Conv3d(4, 4, 1)),
    "indices": ((5,), nn.Identity),
}
#: Classes that nothing is an instance of.
NOT_LAYERS = {
    "RNNBase": "what RNN, LSTM and GRU have in common",
    "RNNCellBase": "what RNNCell, LSTMCell and GRUCell have in common",
}


@dataclass(frozen=True)
class Case:
    """How a class is used.

    Attributes:
        build: makes the module, which maps one tensor to one tensor.
        layout: of its input, a name in LAYOUTS.
        theorem: whether the module is linear on each side of 0, or homogeneous, so that Theorem 1
            has to hold.
        dtype: of everything; torch's simulated quantisation knows float32 only.
    """

    build: Callable[[], nn.Module]
    layout: str = "features"
    theorem: bool = False
    dtype: torch.dtype = torch.float64


# --- modules that need more than one tensor, or give more than one --------------------------------


class Using(nn.Module):
    """A module that is called in its own way."""

    def __init__(self, inner: nn.Module, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.way = inner, way

    def forward(self, x: Tensor) -> Tensor:
        """Return what the way makes of the module and its input."""
        return self.way(self.inner, x)


class Own(nn.Module):
    """What users write: a subclass with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Return a product."""
        return x @ self.weight


def halves(inner: nn.Module) -> nn.Module:
    """Hand a module of two inputs one half of the features each."""
    return Using(inner, lambda module, x: module(*x.chunk(2, dim=1)))


def first(inner: nn.Module) -> nn.Module:
    """Keep the first of several outputs."""
    return Using(inner, lambda module, x: module(x)[0])


def column(inner: nn.Module) -> nn.Module:
    """Compare both halves of the features; what comes out has no features any more."""
    return Using(inner, lambda module, x: module(*x.chunk(2, dim=1)).unsqueeze(1))


def attend(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Let tokens look at each other."""
    return module(x, x, x)[0]


def each(module: Any, x: Tensor) -> Tensor:
    """Run the modules of a list or dictionary one after the other."""
    for part in module.values() if isinstance(module, nn.ModuleDict) else module:
        x = part(x)
    return x


def scale_and_shift(module: Any, x: Tensor) -> Tensor:
    """Use the two parameters of a list or dictionary."""
    scale, shift = module.values() if isinstance(module, nn.ParameterDict) else module
    return x * scale + shift


def two_parameters() -> dict[str, nn.Parameter]:
    """Return a scale and a shift."""
    return {"scale": nn.Parameter(torch.randn(6)), "shift": nn.Parameter(torch.randn(6))}


def unpool(d: int) -> nn.Module:
    """Undo max-pooling."""
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[d]
    inner = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)[d - 1](2)
    return Using(inner, lambda module, x: module(*pool(x, 2, return_indices=True)))


def packed(inner: nn.Module) -> nn.Module:
    """Run a recurrent layer on sequences of different lengths."""
    lengths = torch.tensor([5, 4, 2, 1])

    def run(module: nn.Module, x: Tensor) -> Tensor:
        sequences = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(module(sequences)[0], batch_first=True)[0]

    return Using(inner, run)


def decode(module: nn.Module, x: Tensor) -> Tensor:
    """Decode tokens beside a memory of them."""
    return module(x, x.flip(1))


# --- the cases of torch.nn ------------------------------------------------------------------------

D = {1: "length", 2: "image", 3: "volume"}


def dimensional(name: str, *args: Any, theorem: bool = True, **options: Any) -> dict[str, Case]:
    """Return the cases of a class that there is for one, two and three dimensions."""

    def case(d: int) -> Case:
        return Case(lambda: getattr(nn, f"{name}{d}d")(*args, **options), D[d], theorem)

    return {f"{name}{d}d": case(d) for d in D if hasattr(nn, f"{name}{d}d")}


def elementwise(theorem: bool, **makers: Callable[[], nn.Module]) -> dict[str, Case]:
    """Return the cases of activations."""
    return {name: Case(make, "features", theorem) for name, make in makers.items()}


ACTIVATIONS = {
    **elementwise(
        True,
        **{name: getattr(nn, name) for name in ("ReLU", "LeakyReLU", "RReLU", "PReLU")},
        Hardshrink=lambda: nn.Hardshrink(0.2),
        Threshold=lambda: nn.Threshold(0.1, 0.0),
    ),
    **elementwise(
        False,
        **{
            name: getattr(nn, name)
            for name in (
                *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid"),
                *("Mish", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink"),
                *("Softsign", "Tanh", "Tanhshrink"),
            )
        },
        GLU=nn.GLU,
        Softmax=lambda: nn.Softmax(dim=1),
        LogSoftmax=lambda: nn.LogSoftmax(dim=1),
        Softmin=lambda: nn.Softmin(dim=1),
    ),
    "Softmax2d": Case(nn.Softmax2d, "image"),
}

LINEAR = {
    "Linear": Case(lambda: nn.Linear(6, 5), theorem=True),
    "LazyLinear": Case(lambda: nn.LazyLinear(5), theorem=True),
    "Bilinear": Case(lambda: halves(nn.Bilinear(3, 3, 5))),
    "Identity": Case(nn.Identity, theorem=True),
    "Embedding": Case(lambda: nn.Embedding(7, 6), "indices", theorem=True),
    "Embedding (max_norm)": Case(lambda: nn.Embedding(7, 6, max_norm=1.0), "indices", theorem=True),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(7, 6), "indices", theorem=True),
    "EmbeddingBag (max_norm)": Case(
        lambda: nn.EmbeddingBag(7, 6, max_norm=1.0, mode="sum"), "indices", theorem=True
    ),
    "EmbeddingBag (max)": Case(lambda: nn.EmbeddingBag(7, 6, mode="max"), "indices", theorem=True),
    **dimensional("Conv", 4, 5, 3),
    **dimensional("ConvTranspose", 4, 5, 3),
    **dimensional("LazyConv", 5, 3),
    **dimensional("LazyConvTranspose", 5, 3),
}

NORMS = {
    **dimensional("BatchNorm", 4),
    **dimensional("LazyBatchNorm"),
    **dimensional("InstanceNorm", 4, affine=True, track_running_stats=True),
    **dimensional("LazyInstanceNorm", affine=True),
    "SyncBatchNorm": Case(lambda: nn.SyncBatchNorm(4), "image", theorem=True),
    "LayerNorm": Case(lambda: nn.LayerNorm(6), theorem=True),
    "RMSNorm": Case(lambda: nn.RMSNorm(6), theorem=True),
    "GroupNorm": Case(lambda: nn.GroupNorm(2, 4), "length", theorem=True),
    "LocalResponseNorm": Case(lambda: nn.LocalResponseNorm(3), "image", theorem=True),
    "CrossMapLRN2d": Case(lambda: nn.CrossMapLRN2d(3), "image", theorem=True),
}

POOLING = {
    **dimensional("MaxPool", 2),
    **dimensional("AvgPool", 2),
    **dimensional("LPPool", 2, 2),
    **dimensional("AdaptiveMaxPool", 2),
    **dimensional("AdaptiveAvgPool", 2),
    **dimensional("FractionalMaxPool", 2, output_ratio=0.6),
    **{f"MaxUnpool{d}d": Case(lambda d=d: unpool(d), D[d], True) for d in D},  # type: ignore[misc]
}

ROUTES = {
    **{
        name: case
        for kind in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad")
        for name, case in dimensional(kind, 1).items()
    },
    **dimensional("ConstantPad", 1, 0.5),
    "Flatten": Case(nn.Flatten, "length", theorem=True),
    "Unflatten": Case(lambda: nn.Unflatten(1, (2, 3)), theorem=True),
    "PixelShuffle": Case(lambda: nn.PixelShuffle(2), "image", theorem=True),
    "PixelUnshuffle": Case(lambda: nn.PixelUnshuffle(2), "image", theorem=True),
    "ChannelShuffle": Case(lambda: nn.ChannelShuffle(2), "image", theorem=True),
    "Unfold": Case(lambda: nn.Unfold(2), "image", theorem=True),
    "Fold": Case(lambda: nn.Fold((3, 5), (2, 2)), "length", theorem=True),
    "Upsample": Case(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), "image", theorem=True),
    "UpsamplingBilinear2d": Case(
        lambda: nn.UpsamplingBilinear2d(scale_factor=2), "image", theorem=True
    ),
    "UpsamplingNearest2d": Case(
        lambda: nn.UpsamplingNearest2d(scale_factor=2), "image", theorem=True
    ),
}

DROPOUT = {
    "Dropout": Case(nn.Dropout, theorem=True),
    **dimensional("Dropout"),
    "AlphaDropout": Case(nn.AlphaDropout),
    "FeatureAlphaDropout": Case(nn.FeatureAlphaDropout, "image"),
}

SEQUENCES = {
    **{
        name: Case(lambda kind=kind: first(kind(6, 5, batch_first=True)), "tokens")  # type: ignore[misc]
        for name, kind in {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}.items()
    },
    "RNN (relu)": Case(
        lambda: first(nn.RNN(6, 5, nonlinearity="relu", batch_first=True)), "tokens", theorem=True
    ),
    "LSTM (two layers, both ways, dropout)": Case(
        lambda: first(nn.LSTM(6, 4, 2, dropout=0.5, bidirectional=True, batch_first=True)), "tokens"
    ),
    "LSTM (projection)": Case(
        lambda: first(nn.LSTM(6, 5, proj_size=3, batch_first=True)), "tokens"
    ),
    "GRU (packed sequence)": Case(lambda: packed(nn.GRU(6, 5, batch_first=True)), "tokens"),
    "RNNCell": Case(lambda: nn.RNNCell(6, 5)),
    "LSTMCell": Case(lambda: first(nn.LSTMCell(6, 5))),
    "GRUCell": Case(lambda: nn.GRUCell(6, 5)),
    "MultiheadAttention": Case(
        lambda: Using(nn.MultiheadAttention(6, 2, batch_first=True), attend), "tokens"
    ),
    "TransformerEncoderLayer": Case(
        lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), "tokens"
    ),
    "TransformerEncoder": Case(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True),
            num_layers=2,
            enable_nested_tensor=False,
        ),
        "tokens",
    ),
    "TransformerDecoderLayer": Case(
        lambda: Using(nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), decode), "tokens"
    ),
    "TransformerDecoder": Case(
        lambda: Using(
            nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), 2), decode
        ),
        "tokens",
    ),
    "Transformer": Case(
        lambda: Using(nn.Transformer(6, 2, 1, 1, 8, batch_first=True), decode), "tokens"
    ),
}

CONTAINERS = {
    "Module": Case(Own, theorem=True),
    "Container": Case(
        lambda: Using(nn.Container(layer=nn.Linear(6, 5)), lambda module, x: module.layer(x)),
        theorem=True,
    ),
    "Sequential": Case(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU()), theorem=True),
    "ModuleList": Case(
        lambda: Using(nn.ModuleList([nn.Linear(6, 5), nn.ReLU()]), each), theorem=True
    ),
    "ModuleDict": Case(
        lambda: Using(nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.ReLU()}), each), theorem=True
    ),
    "ParameterList": Case(
        lambda: Using(nn.ParameterList(two_parameters().values()), scale_and_shift), theorem=True
    ),
    "ParameterDict": Case(
        lambda: Using(nn.ParameterDict(two_parameters()), scale_and_shift), theorem=True
    ),
    "DataParallel": Case(lambda: nn.DataParallel(nn.Linear(6, 5)), theorem=True),
}

DISTANCES = {
    "CosineSimilarity": Case(lambda: column(nn.CosineSimilarity(dim=1))),
    "PairwiseDistance": Case(lambda: column(nn.PairwiseDistance())),
    "AdaptiveLogSoftmaxWithLoss": Case(
        lambda: Using(
            nn.AdaptiveLogSoftmaxWithLoss(6, 5, cutoffs=[2, 3], div_value=2.0),
            lambda module, x: module.log_prob(x),
        )
    ),
}

CASES: dict[str, Case] = {
    **ACTIVATIONS,
    **LINEAR,
    **NORMS,
    **POOLING,
    **ROUTES,
    **DROPOUT,
    **SEQUENCES,
    **CONTAINERS,
    **DISTANCES,
}

# --- weights that are made of other weights, and simulated quantisation ---------------------------


def parametrized(change: Callable[[nn.Module], nn.Module]) -> Case:
    """Return the case of a layer with a changed weight."""
    return Case(lambda: change(nn.Linear(6, 5)), theorem=True)


CASES |= {
    "parametrizations.weight_norm": parametrized(parametrizations.weight_norm),
    "parametrizations.spectral_norm": parametrized(parametrizations.spectral_norm),
    "parametrizations.orthogonal": parametrized(parametrizations.orthogonal),
    **{
        f"parametrizations.orthogonal ({way})": parametrized(
            lambda layer, way=way: parametrizations.orthogonal(layer, orthogonal_map=way)  # type: ignore[misc]
        )
        for way in ("matrix_exp", "cayley", "householder")
    },
    "utils.weight_norm": parametrized(nn.utils.weight_norm),
    "utils.spectral_norm": parametrized(nn.utils.spectral_norm),
}


def quantised(kind: type, *sizes: int, **options: Any) -> nn.Module:
    """Return a layer whose weights, or a fused layer whose all, are quantised in training."""
    qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    layer: nn.Module = kind(*sizes, qconfig=qconfig, **options)
    if isinstance(layer.bias, Tensor):  # which LinearBn1d leaves as the memory was
        nn.init.uniform_(layer.bias, -0.5, 0.5)
    return layer


def embedding_qconfig() -> Any:
    """Return how embeddings are quantised."""
    return torch.ao.quantization.default_embedding_qat_qconfig


def quantisation_cases() -> dict[str, Case]:
    """Return the cases of quantisation-aware training."""
    # Lambdas, because torch.ao is slow to import, and because some torch has none.
    cases: dict[str, Case] = {}
    for name, kind in _classes(_ao("torch.ao.nn.qat")).items():
        if "Embedding" in name:
            cases[f"qat.{name}"] = Case(
                lambda kind=kind: kind(7, 6, qconfig=embedding_qconfig()),  # type: ignore[misc]
                "indices",
                theorem=True,
                dtype=torch.float32,
            )
        else:
            cases[f"qat.{name}"] = _layer_case(name, kind)
    for name, kind in _classes(_ao("torch.ao.nn.intrinsic.qat")).items():
        cases[f"intrinsic.qat.{name}"] = _layer_case(name, kind)
    for name, kind in _classes(_ao("torch.ao.quantization.fake_quantize")).items():
        if name == "FixedQParamsFakeQuantize":
            cases[f"quantization.{name}"] = Case(
                torch.ao.quantization.default_fixed_qparams_range_neg1to1_fake_quant,
                dtype=torch.float32,
            )
        elif name != "FakeQuantizeBase":
            cases[f"quantization.{name}"] = Case(kind, dtype=torch.float32)
    return cases


def _layer_case(name: str, kind: type) -> Case:
    if name.startswith("Linear"):
        return Case(lambda: quantised(kind, 6, 5), theorem=True, dtype=torch.float32)
    dimensions = int(name.removesuffix("d")[-1])
    build = partial(quantised, kind, 4, 5, 3)
    return Case(build, D[dimensions], theorem=True, dtype=torch.float32)


def _ao(name: str) -> ModuleType | None:
    """Import a part of torch.ao, which torch is about to move into another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_module(name)
        except ImportError:
            return None


def _classes(module: ModuleType | None) -> dict[str, type[nn.Module]]:
    """Return the public module classes of a module of torch, but for those of another one."""
    found = vars(module) if module is not None else {}
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and not name.startswith("_")
        if module is not None and kind.__module__.startswith(module.__name__)
    }


CASES |= quantisation_cases()

# --- losses ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossCase:
    """A loss of outputs (batch, CLASSES), with its targets.

    It is not a part of the model: the reward is made of it, by `rewards.from_loss`.
    """

    build: Callable[[], nn.Module]
    call: Callable[[Any, Tensor], Tensor]


def with_targets(*targets: Tensor, change: Callable[[Tensor], Tensor] = lambda o: o) -> Any:
    """Return what calls a loss with the targets, and with the outputs after a change."""
    return lambda loss, outputs: loss(change(outputs), *targets)


def numbers(seed: int) -> Tensor:
    """Return fixed numbers in the outputs' shape."""
    return torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed)).double()


INDICES = torch.arange(BATCH) % CLASSES
SIGNS = numbers(1).sign()
PROBABILITIES = numbers(2).softmax(dim=1)
ROW_SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return a distance of a user's own."""
    return (one - other).square().sum(dim=1)


def ctc(loss: Any, outputs: Tensor) -> Tensor:
    """Take the batch for the time, as one sequence of letters."""
    lengths = torch.tensor([BATCH]), torch.tensor([2])
    return loss(outputs.log_softmax(dim=1)[:, None], torch.tensor([[1, 2]]), *lengths)


LOSSES: dict[str, LossCase] = {
    **{
        name: LossCase(getattr(nn, name), with_targets(numbers(3)))
        for name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss")
    },
    **{
        name: LossCase(getattr(nn, name), with_targets(INDICES))
        for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
    },
    "NLLLoss2d": LossCase(
        nn.NLLLoss2d, with_targets(INDICES[:, None, None], change=lambda o: o[:, :, None, None])
    ),
    "BCELoss": LossCase(nn.BCELoss, with_targets(PROBABILITIES, change=torch.sigmoid)),
    "BCEWithLogitsLoss": LossCase(nn.BCEWithLogitsLoss, with_targets(PROBABILITIES)),
    "KLDivLoss": LossCase(
        lambda: nn.KLDivLoss(reduction="batchmean"),
        with_targets(PROBABILITIES, change=lambda o: o.log_softmax(dim=1)),
    ),
    "PoissonNLLLoss": LossCase(nn.PoissonNLLLoss, with_targets(numbers(3).abs())),
    "GaussianNLLLoss": LossCase(
        nn.GaussianNLLLoss, with_targets(numbers(3), numbers(4).square() + 0.1)
    ),
    "HingeEmbeddingLoss": LossCase(nn.HingeEmbeddingLoss, with_targets(SIGNS)),
    "SoftMarginLoss": LossCase(nn.SoftMarginLoss, with_targets(SIGNS)),
    "MultiLabelMarginLoss": LossCase(
        nn.MultiLabelMarginLoss, with_targets(torch.tensor([[0, -1, -1]] * BATCH))
    ),
    "MultiLabelSoftMarginLoss": LossCase(
        nn.MultiLabelSoftMarginLoss, with_targets((SIGNS + 1) / 2)
    ),
    "MarginRankingLoss": LossCase(nn.MarginRankingLoss, with_targets(numbers(3), SIGNS)),
    "CosineEmbeddingLoss": LossCase(nn.CosineEmbeddingLoss, with_targets(numbers(3), ROW_SIGNS)),
    "TripletMarginLoss": LossCase(nn.TripletMarginLoss, with_targets(numbers(3), numbers(4))),
    "TripletMarginWithDistanceLoss": LossCase(
        lambda: nn.TripletMarginWithDistanceLoss(distance_function=squared_distance),
        with_targets(numbers(3), numbers(4)),
    ),
    "CTCLoss": LossCase(nn.CTCLoss, ctc),
    # Its own layer is a part of the loss, and belongs in the model instead.
    "LinearCrossEntropyLoss": LossCase(
        lambda: nn.LinearCrossEntropyLoss(CLASSES, 5), with_targets(INDICES)
    ),
}

# --- all of them ----------------------------------------------------------------------------------


def classes() -> list[str]:
    """Return the names of everything public, as torch has them today."""
    return [
        *(name for name in _classes(nn) if name not in NOT_LAYERS),
        *(f"parametrizations.{name}" for name in parametrizations.__all__),
    ]


def names() -> list[str]:
    """Return the names of what is examined."""
    losses = (name for name in LOSSES if hasattr(nn, name))  # some are newer than the oldest torch
    return sorted({*classes(), *CASES, *losses}, key=str.lower)


def examine_module(name: str) -> list[Record]:
    """Examine one class in every variant and mode."""
    if name not in CASES and name not in LOSSES:
        return [Record(GROUP, name, "", "error", reason="the suite has no case for it")]
    variants = VARIANTS if name in CASES else LOSS_VARIANTS
    if name in CASES and CASES[name].layout == "indices":
        variants = {DATA: VARIANTS[DATA]}
    return [
        examine(
            GROUP,
            name,
            partial(quietly, make, name),
            training=training,
            epsilons=EPSILONS,
            variant=variant,
        )
        for variant, make in variants.items()
        for training in (True, False)
    ]


def quietly(make: Callable[[str], Net], name: str) -> Net:
    """Build a net in the case's dtype, without torch's notes on what is deprecated."""
    dtype = CASES[name].dtype if name in CASES else torch.float64
    with default_dtype(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(name)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors have the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def behind_a_layer(name: str) -> Net:
    """Return a net of a layer, the module, and a last layer."""
    case = CASES[name]
    front = LAYOUTS[case.layout][1]()
    return _net(case, front, list(front.parameters()))


def on_the_data(name: str) -> Net:
    """Return a net of the module and a last layer."""
    return _net(CASES[name], None, [])


def _net(case: Case, front: nn.Module | None, behind: list[nn.Parameter]) -> Net:
    module, inputs = case.build(), inputs_of(case.layout)
    parts = [module, nn.Flatten(), nn.LazyLinear(CLASSES)]
    model = nn.Sequential(*([] if front is None else [front]), *parts)
    warm_up(model, inputs)
    return Net(model, lambda m: m(inputs), behind or list(module.parameters()), None, case.theorem)


def inputs_of(layout: str) -> Tensor:
    """Return a batch in a layout."""
    shape = (BATCH, *LAYOUTS[layout][0])
    if layout == "indices":
        return torch.randint(0, 7, shape)
    return torch.randn(shape)


def warm_up(model: nn.Module, inputs: Tensor) -> None:
    """Give lazy layers their sizes, and observers and running statistics something to see.

    Scales are moved away from 1, where multiplying by |w| would do nothing.
    """
    with torch.no_grad():
        model.train()(inputs)
        no_zeros(model)
        for parameter in model.parameters():
            if parameter.eq(1).all():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def outside_of_the_context(name: str) -> Net:
    """Return a net whose reward is made of the loss."""
    return _loss_net(name, inside=False)


def inside_of_the_context(name: str) -> Net:
    """Return the same, with the loss computed in the context as well, and then not used."""
    return _loss_net(name, inside=True)


def _loss_net(name: str, inside: bool) -> Net:
    case = LOSSES[name]
    loss, inputs = case.build(), inputs_of("features")
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def call(m: nn.Module) -> Tensor:
        outputs = m(inputs)
        if inside:
            case.call(loss, outputs)
        return outputs

    def value(outputs: Tensor) -> Tensor:
        return case.call(loss, outputs)

    return Net(model, call, list(model.parameters()), value, theorem=True)


DATA = "on the data"
VARIANTS: dict[str, Callable[[str], Net]] = {"behind a layer": behind_a_layer, DATA: on_the_data}
LOSS_VARIANTS: dict[str, Callable[[str], Net]] = {
    "for the reward": outside_of_the_context,
    "inside of the context": inside_of_the_context,
}
