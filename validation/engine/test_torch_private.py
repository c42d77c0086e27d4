"""The private names of torch in :mod:`lfp_core._torch` do what the engine takes them for.

Each test is about one name, so that a version of torch which moves or changes it fails by name.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

import lfp_core as lfp
from lfp_core import _torch
from lfp_core.marks import mark_of
from lfp_core.operations import METHODS, UNFOLDED, rules
from lfp_core.pooling import MaxPool2d

aten = torch.ops.aten
OLDEST = Path(__file__).parents[1] / "oldest.txt"  # for `tox -e oldest`


class Recorder(TorchFunctionMode):
    """Writes down which operations were offered to the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation."""
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def hidden(*shape: int) -> Tensor:
    """Return a tensor that is no leaf, so that it has a node."""
    torch.manual_seed(0)
    return torch.randn(*shape, requires_grad=True) * 1.0


# --- nodes of the graph ---------------------------------------------------------------------------

#: Each makes a view or an unchanged copy: the name of its node, how, and the shape that it is of.
VIEWS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "AliasBackward0": (aten.alias, (2, 3)),
    "AsStridedBackward0": (lambda h: h.as_strided((2, 2), (3, 1)), (2, 3)),
    "CloneBackward0": (torch.clone, (2, 3)),
    "DiagonalBackward0": (torch.diagonal, (2, 3)),
    "ExpandBackward0": (lambda h: h.expand(4, 3), (1, 3)),
    "PermuteBackward0": (lambda h: h.permute(1, 0), (2, 3)),
    "ReshapeAliasBackward0": (lambda h: aten._reshape_alias(h, (6,), (1,)), (2, 3)),
    "SelectBackward0": (lambda h: h[0], (2, 3)),
    "SliceBackward0": (lambda h: h[:, 1:], (2, 3)),
    "SqueezeBackward0": (torch.squeeze, (2, 1)),
    "SqueezeBackward1": (lambda h: h.squeeze(1), (2, 1)),
    "SqueezeBackward2": (lambda h: h.squeeze((0, 1)), (1, 1)),
    "TBackward0": (torch.t, (2, 3)),
    "TransposeBackward0": (lambda h: h.transpose(0, 1), (2, 3)),
    "UnfoldBackward0": (lambda h: h.unfold(1, 2, 1), (2, 3)),
    "UnsafeViewBackward0": (lambda h: aten._unsafe_view(h, (6,)), (2, 3)),
    "UnsqueezeBackward0": (lambda h: h.unsqueeze(0), (2, 3)),
    "ViewBackward0": (lambda h: h.view(6), (2, 3)),
    "ToCopyBackward0": (torch.Tensor.double, (2, 3)),
    "UnbindBackward0": (lambda h: h.unbind()[1], (2, 3)),
    "SplitBackward0": (lambda h: h.split(2, dim=1)[1], (2, 3)),
    "SplitWithSizesBackward0": (lambda h: h.split([1, 2], dim=1)[1], (2, 3)),
}


def kind_of(node_name: str) -> str:
    """Return the name of a node without the number of its overload."""
    return node_name.rstrip("0123456789")


@pytest.mark.parametrize("name", VIEWS)
def test_view_is_known_by_the_name_of_its_node(name: str) -> None:
    make, shape = VIEWS[name]
    view = make(hidden(*shape))
    assert view.grad_fn.name() == name
    assert name in _torch.VIEWS


def test_every_name_of_a_view_is_made_by_one_of_them() -> None:
    assert {kind_of(name) for name in _torch.VIEWS} == {kind_of(name) for name in VIEWS}


@pytest.mark.parametrize("name", VIEWS)
def test_view_that_no_mode_saw_has_the_mark_of_its_source(name: str) -> None:
    make, shape = VIEWS[name]
    layer = nn.Linear(shape[-1], shape[-1])
    with lfp.feedback(epsilon=0.25):
        z = layer(torch.randn(*shape))
        with _torch.DisableTorchFunction():
            view = make(z)
        mark = mark_of(view)
    assert mark is not None
    assert (mark.kind, mark.epsilon, mark.hidden) == ("activation", 0.25, False)


def test_what_is_no_view_is_not_taken_for_one() -> None:
    for made in (hidden(3).exp(), torch.cat([hidden(3)] * 2), hidden(3) + 1, hidden(2, 2).sum(0)):
        assert made.grad_fn is not None
        assert made.grad_fn.name() not in _torch.VIEWS | _torch.IDENTITIES


def test_full_backward_hook_makes_an_identity() -> None:
    module = nn.Identity()
    module.register_full_backward_hook(lambda *_: None)
    source = hidden(3)
    output = module(source)
    node: Any = output.grad_fn
    assert node.name() in _torch.IDENTITIES  # what wraps the outputs
    (before, edge) = node.next_functions[output.output_nr]
    assert before.name() in _torch.IDENTITIES  # what wraps the inputs
    assert before.next_functions[edge] == (source.grad_fn, 0)


def test_fsdp2_makes_an_identity() -> None:
    """Its Function takes a group of parameters and any tensors, which it returns as they are."""
    state = pytest.importorskip("torch.distributed.fsdp._fully_shard._fsdp_param_group")
    sources = hidden(3), hidden(2)
    outputs = state.RegisterPostBackwardFunction.apply(None, *sources)
    for index, (source, output) in enumerate(zip(sources, outputs, strict=True)):
        assert output.grad_fn.name() in _torch.IDENTITIES
        assert output.output_nr == index
        assert output.grad_fn.next_functions[index] == (source.grad_fn, 0)


def test_node_keeps_its_metadata_when_no_python_object_of_it_is_left() -> None:
    source = hidden(3)
    made: Any = source.exp()
    made.grad_fn.metadata["mine", 0] = "kept"
    following = made.sum()
    del made
    (node, output), *_ = following.grad_fn.next_functions
    assert output == 0
    assert node.metadata["mine", 0] == "kept"
    assert ("mine", 1) not in node.metadata


def test_next_functions_lead_to_nodes_outputs_and_leaves() -> None:
    weight = torch.ones(3, requires_grad=True)
    first, second = hidden(2, 3).unbind()
    node: Any = (second * weight).grad_fn
    assert node.next_functions[0] == (second.grad_fn, 1)
    assert first.grad_fn == second.grad_fn
    assert node.next_functions[1][0].variable is weight
    assert not hasattr(node, "variable")
    with_number: Any = (second * 2.0).grad_fn
    assert all(source is None for source, _ in with_number.next_functions[1:])


def test_hook_of_a_node_replaces_what_it_hands_down() -> None:
    weight = torch.ones(3, requires_grad=True)
    x = hidden(3)
    made = x * weight
    node: Any = made.grad_fn
    node.register_hook(lambda to_inputs, _: (to_inputs[0], 5 * to_inputs[1]))
    made.backward(torch.ones(3))
    assert torch.equal(weight.grad, 5 * x)  # type: ignore[arg-type]


def test_output_nr_tells_the_outputs_of_a_node_apart() -> None:
    assert [part.output_nr for part in hidden(6).split(2)] == [0, 1, 2]


# --- attributes of a tensor -----------------------------------------------------------------------


def test_base_is_the_memory_that_a_view_is_of() -> None:
    base = torch.zeros(2, 3)
    assert base._base is None
    assert base[0]._base is base
    assert base[0].view(3, 1)._base is base  # the whole memory, not the view in between
    assert base.clone()._base is None
    result = hidden(2, 3)
    assert result.t()._base is result


def test_version_counts_writes_through_every_view() -> None:
    memory = torch.zeros(2, 3)
    view = memory[0]
    assert _torch.version(memory) == _torch.version(view) == 0
    view.add_(1)
    assert _torch.version(memory) == _torch.version(view) == 1
    with torch.inference_mode():
        assert _torch.version(torch.zeros(2)) == 0


def test_tensor_base_has_the_methods_that_compiled_code_calls() -> None:
    assert issubclass(Tensor, _torch.TENSOR_BASE)
    x = hidden(3)
    assert torch.equal(_torch.TENSOR_BASE.relu(x), x.relu())
    memory = torch.zeros(3)
    _torch.TENSOR_BASE.__setitem__(memory, 0, 1.0)
    assert memory.tolist() == [1, 0, 0]


def test_methods_in_python_are_found_by_name() -> None:
    """``unflatten`` and the reversed operators are among them; ``relu`` is not."""
    assert _torch.is_method_in_python(Tensor.unflatten)
    assert not _torch.is_method_in_python(Tensor.relu)
    assert {"unflatten", "__rsub__", "__rdiv__", "split", "norm"} <= METHODS.keys()


# --- modes ----------------------------------------------------------------------------------------


def test_mode_is_active_within_it_only() -> None:
    assert not _torch.mode_is_active()
    with Recorder():
        assert _torch.mode_is_active()
    assert not _torch.mode_is_active()


def test_active_modes_are_those_of_the_thread_outermost_first() -> None:
    with Recorder() as outer, lfp.feedback() as inner:
        assert _torch.active_modes() == [outer, inner]
    assert _torch.active_modes() == []


def test_mode_sees_nothing_where_functions_are_disabled() -> None:
    with Recorder() as mode:
        with _torch.DisableTorchFunction():
            torch.ones(3).exp()
        assert not mode.seen
        torch.ones(3).exp()
    assert mode.seen == [torch.ones, Tensor.exp]


def test_function_of_ones_own_is_offered_to_the_mode() -> None:
    """Of a plain tensor too, which has no ``__torch_function__`` of its own."""

    def double(x: Tensor) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(double, (x,), x)
        return 2 * x

    x = torch.ones(3)
    assert not has_torch_function_unary(x)
    with Recorder() as mode:
        assert torch.equal(double(x), 2 * x)
    assert mode.seen[0] is double


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad], ids=["vmap", "grad"])
def test_transform_is_active_within_it_only(transform: Any) -> None:
    found = []

    def function(x: Tensor) -> Tensor:
        found.append(_torch.transform_is_active())
        return x.sum()

    transform(function)(torch.ones(2, 3))
    assert found == [True]
    assert not _torch.transform_is_active()


class WithKeywords(nn.Module):
    """A module that takes an argument and a keyword."""

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        """Scale x."""
        return scale * x


class Outer(nn.Module):
    """A module that calls another one, and asks there what the outermost was called with."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__()
        self.inner, self.found = nn.Identity(), found
        self.inner.register_forward_hook(lambda *_: found.append(_torch.outermost_call()))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Hand something else to the inner module."""
        return self.inner(x * scale)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("keywords", [{}, {"scale": 3.0}])
def test_the_outermost_module_and_its_arguments_are_found(
    keywords: dict[str, float], hooked: bool
) -> None:
    found: list[Any] = []
    module, x = Outer(found), torch.ones(2)
    if hooked:  # with hooks of its own, torch takes another path
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
    module(x, **keywords)
    ((outermost, args, options),) = found
    assert outermost is module
    assert args[0] is x
    assert options == keywords
    assert _torch.outermost_call() is None


def test_backward_pass_is_that_of_autograd() -> None:
    x = torch.randn(3, requires_grad=True)
    outputs, gradients = [x.sin(), x**2], [torch.randn(3), torch.randn(3)]
    (expected,) = torch.autograd.grad(outputs, x, gradients, retain_graph=True)
    _torch.run_backward(outputs, gradients, retain_graph=True)
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    _torch.run_backward(outputs, gradients, retain_graph=False)
    assert torch.equal(x.grad, 2 * expected)
    with pytest.raises(RuntimeError, match="second time"):
        _torch.run_backward(outputs, gradients, retain_graph=False)


# --- operations -----------------------------------------------------------------------------------


def test_safe_softmax_of_what_is_masked_is_0() -> None:
    scores = torch.tensor([[1.0, 2.0], [-math.inf, -math.inf]])
    assert torch.equal(
        _torch.safe_softmax(scores, -1), torch.stack([scores[0].softmax(0), torch.zeros(2)])
    )


def test_backward_pass_of_relu_needs_its_output_alone() -> None:
    g, a = torch.randn(3), torch.tensor([0.0, 1e-30, 2.0])
    assert torch.equal(_torch.threshold_backward(g, a, 0), g * (a > 0))


def test_backward_pass_of_softmax_is_autograds() -> None:
    scores, push = torch.randn(2, 3, 4, dtype=torch.float64)
    weights = scores.requires_grad_().softmax(-1)
    (expected,) = torch.autograd.grad((push * weights).sum(), scores)
    found = _torch.softmax_backward(push, weights.detach(), -1, weights.dtype)
    torch.testing.assert_close(found, expected)


def test_autocast_lowers_what_it_lowers_for_a_product() -> None:
    single, double = torch.randn(2, 2), torch.randn(2, 2, dtype=torch.float64)
    assert _torch.as_autocast(single) is single
    with torch.autocast("cpu", torch.bfloat16):
        for factor in (single, double, torch.randn(2, 2, device="meta")):
            assert _torch.as_autocast(factor).dtype == (factor @ factor).dtype


def test_transposes_are_what_the_compiler_calls_them() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert all(torch.equal(transpose(x), x.T) for transpose in _torch.TRANSPOSES)
    assert {aten.numpy_T, aten.mT} == _torch.TRANSPOSES
    assert rules().keys() >= _torch.TRANSPOSES


def test_parts_of_aten_that_move_values_do_so() -> None:
    x = torch.randn(3, 4)
    calls: dict[Any, tuple[tuple[Any, ...], Tensor]] = {
        aten.slice.Tensor: ((x, 1, 1, 3), x[:, 1:3]),
        aten.index.Tensor: ((x, [None, torch.tensor([2, 0])]), x[:, [2, 0]]),
        aten.alias.default: ((x,), x),
        aten._to_copy.default: ((x,), x),
        aten._unsafe_view.default: ((x, [4, 3]), x.view(4, 3)),
        aten.block_diag.default: (([x, x],), torch.block_diag(x, x)),
        aten.cartesian_prod.default: (([x[0], x[1]],), torch.cartesian_prod(x[0], x[1])),
        aten.broadcast_tensors.default: (([x, x[:1]],), torch.stack([x, x[:1].expand(3, 4)])),
    }
    assert calls.keys() == _torch.ATEN_ROUTES
    for operation, (arguments, expected) in calls.items():
        found = operation(*arguments)
        assert torch.equal(torch.stack(found) if isinstance(found, list) else found, expected)


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        (aten.relu.default, torch.relu),
        (aten.add.Tensor, torch.add),
        (aten.add_.Tensor, Tensor.add_),
        (aten.view.default, Tensor.view),
        (aten.gelu.default, F.gelu),
        (aten.linalg_vector_norm.default, torch.linalg.vector_norm),
        (aten.special_expit.default, torch.special.expit),
        (aten.fft_rfft.default, torch.fft.rfft),
        (aten.mul, torch.mul),
        (torch.ops.prims.mul.default, torch.ops.prims.mul.default),  # of another library
        (aten.native_layer_norm_backward.default, aten.native_layer_norm_backward.default),
        (torch.relu, torch.relu),
    ],
)
def test_operations_of_aten_are_found_in_python(operation: Any, function: Any) -> None:
    assert _torch.function_of(operation) == function


def test_properties_are_found_by_their_names_in_aten() -> None:
    x = torch.randn(3, 4)
    for name, attribute in _torch.PROPERTIES.items():
        found = _torch.function_of(getattr(aten, name).default)
        assert torch.equal(found(x), getattr(x, attribute))


def test_resizing_is_by_copies_or_by_sums() -> None:
    names = {operation.__name__ for operation in _torch.UPSAMPLE_BY_COPIES}
    assert {"upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"} <= names
    assert {f.__name__ for f in _torch.UPSAMPLE_BY_SUMS} >= {
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"),
    }


def test_sequences_are_padded_and_packed_by_operations_that_have_rules() -> None:
    sequences = [torch.ones(3, 2), torch.ones(1, 2)]
    with Recorder() as mode:
        padded = pad_sequence(sequences, batch_first=True)
        packed = pack_padded_sequence(padded, torch.tensor([3, 1]), batch_first=True)
        pad_packed_sequence(packed, batch_first=True)
    assert set(mode.seen) >= _torch.SEQUENCES
    assert rules().keys() >= _torch.SEQUENCES


def test_assertion_in_a_graph_fails_where_its_tensor_is_false() -> None:
    _torch.assert_async(torch.tensor(True), "never")
    with pytest.raises(RuntimeError, match="as it must"):
        _torch.assert_async(torch.tensor(False), "as it must")


def test_classes_of_modules_hold_all_of_a_kind() -> None:
    dropouts = nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout
    assert all(issubclass(dropout, _torch.Dropout) for dropout in dropouts)
    norms = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    assert all(issubclass(norm, _torch.BatchNorm) for norm in norms)
    assert not issubclass(nn.LayerNorm, _torch.BatchNorm)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_backward_pass_of_max_pooling_needs_no_values_of_its_input(layout: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 7).contiguous(memory_format=layout).requires_grad_()
    found = []
    for pool in (MaxPool2d.apply, F.max_pool2d):
        output = pool(x, 3, 2, 1, 1, False)
        (gradient,) = torch.autograd.grad(output, x, output.detach().cos())
        found.append(gradient)
    assert torch.equal(*found)


# --- functions that torch writes in Python --------------------------------------------------------

_p = torch.tensor([0.2, 0.5, 0.9])
_sign = torch.tensor([1.0, -1.0, 1.0])
_classes = torch.tensor([0, 2])


def x(*shape: int) -> Tensor:
    """Return an argument of a function."""
    return torch.sin(torch.arange(math.prod(shape)) + 1.0).reshape(shape)


#: Arguments of each of these functions, and keyword arguments.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "gumbel_softmax": ((x(2, 3),), {}),
    "embedding": ((torch.tensor([0, 2]), x(3, 2)), {"max_norm": 0.5}),
    "embedding_bag": ((torch.tensor([[0, 2]]), x(3, 2)), {"mode": "sum"}),
    "local_response_norm": ((x(2, 4, 3), 2), {}),
    "ctc_loss": (
        (x(5, 1, 3).log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])),
        {},
    ),
    "nll_loss": ((x(2, 3), _classes), {}),
    "poisson_nll_loss": ((x(3), _p), {"full": True}),
    "gaussian_nll_loss": ((x(3), _p, _p), {}),
    "kl_div": ((x(3), _p), {"reduction": "sum"}),
    "cross_entropy": ((x(2, 3), _classes), {"label_smoothing": 0.1}),
    "binary_cross_entropy": ((_p, _p), {}),
    "binary_cross_entropy_with_logits": ((x(3), _p), {"pos_weight": _p}),
    "linear_cross_entropy": ((x(2, 4), x(3, 4), _classes), {}),
    "smooth_l1_loss": ((x(3), _p), {}),
    "huber_loss": ((x(3), _p), {}),
    "l1_loss": ((x(3), _p), {}),
    "mse_loss": ((x(3), _p), {}),
    "margin_ranking_loss": ((x(3), _p, _sign), {}),
    "hinge_embedding_loss": ((x(3), _sign), {}),
    "multilabel_margin_loss": ((x(3), torch.tensor([0, 2, -1])), {}),
    "soft_margin_loss": ((x(3), _sign), {}),
    "multilabel_soft_margin_loss": ((x(2, 3), torch.ones(2, 3)), {}),
    "cosine_embedding_loss": ((x(3, 4), x(3, 4).cos(), _sign), {}),
    "multi_margin_loss": ((x(2, 3), _classes), {}),
    "upsample": ((x(1, 1, 2, 2),), {"scale_factor": 2}),
    "upsample_nearest": ((x(1, 1, 2, 2),), {"size": 3}),
    "upsample_bilinear": ((x(1, 1, 2, 2),), {"size": 3}),
    "grid_sample": ((x(1, 2, 3, 3), x(1, 2, 2, 2)), {"align_corners": False}),
    "affine_grid": ((x(1, 2, 3), [1, 2, 3, 3]), {"align_corners": False}),
    "triplet_margin_loss": ((x(2, 3), x(2, 3).cos(), x(2, 3).exp()), {"swap": True}),
    "triplet_margin_with_distance_loss": ((x(2, 3), x(2, 3).cos(), x(2, 3).exp()), {}),
    "normalize": ((x(2, 3),), {"dim": -1}),
    "assert_int_or_pair": (([1, 2], "name", "message"), {}),
    "multi_head_attention_forward": (
        (
            *(x(3, 1, 4), x(5, 1, 4), x(5, 1, 4), 4, 2),
            *(x(12, 4), x(12), None, None, False, 0.0, x(4, 4), x(4)),
        ),
        {},
    ),
    "broadcast_shapes": (((2, 1), (1, 3)), {}),
    "unique": ((torch.tensor([3, 1, 3]),), {"return_inverse": True}),
    "unique_consecutive": ((torch.tensor([3, 3, 1, 3]),), {}),
    "cartesian_prod": ((x(2), x(3)), {}),
    "unravel_index": ((torch.tensor([3, 5]), (2, 3)), {}),
    "lu": ((x(3, 3),), {}),
}
#: Products in formats that need a GPU, and what is for named tensors alone.
NOT_CALLED = {"grouped_mm", "scaled_mm", "scaled_grouped_mm", "align_tensors"}
FUNCTIONS = {function.__name__: function for function in UNFOLDED}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_unfolded_function_gives_the_values_of_torch(name: str) -> None:
    if name in NOT_CALLED:
        pytest.skip("needs a GPU, or tensors with names")
    args, kwargs = CALLS[name]
    found = []
    for function in (FUNCTIONS[name], UNFOLDED[FUNCTIONS[name]]):
        torch.manual_seed(0)
        found.append(function(*args, **kwargs))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_unfolded_function_shows_what_is_in_it() -> None:
    logits = x(2, 3)
    with Recorder() as mode:
        UNFOLDED[F.cross_entropy](logits, _classes)
    assert mode.seen == [torch._C._nn.cross_entropy_loss]
    with Recorder() as mode:
        F.cross_entropy(logits, _classes)
    assert mode.seen[0] is F.cross_entropy


@pytest.mark.parametrize(
    "call",
    [
        torch.unique,
        lambda t: torch.unique(t, return_inverse=True, return_counts=True, dim=0)[1],
        torch.unique_consecutive,
        lambda t: torch.lu(t, get_infos=True)[2],
        lambda t: F.adaptive_max_pool1d(t[None], 1, return_indices=True)[1],
        lambda t: F.fractional_max_pool2d(t[None], 1, output_size=2, return_indices=True)[1],
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_functions_that_choose_another_run_inside_of_a_context(call: Any) -> None:
    # They offer themselves to the mode from within what they choose.
    data = x(3, 3)
    torch.manual_seed(0)
    expected = call(data)
    torch.manual_seed(0)
    with lfp.feedback():
        assert torch.equal(call(data), expected)


def test_unfolding_leaves_the_function_of_torch_alone() -> None:
    copy: Any = _torch.unfolded(F.normalize)
    assert copy is not F.normalize
    assert F.normalize.__globals__["has_torch_function_unary"] is has_torch_function_unary
    assert copy.__kwdefaults__ == F.normalize.__kwdefaults__


def test_what_is_written_in_python_is_told_from_what_is_built_in() -> None:
    assert _torch.is_python(F.normalize)
    assert not _torch.is_python(torch.relu)
    assert not _torch.is_python(Tensor.relu)
    assert not _torch.is_python(nn.ReLU())


# --- torch.compile --------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.compiled
@pytest.mark.usefixtures("compiler")
def test_compiled_assignment_of_activations_to_slices_is_refused() -> None:
    layer = nn.Linear(3, 3)

    def forward(x: Tensor, values: Any) -> Tensor:
        with lfp.feedback():
            memory = torch.zeros(2, 3)
            memory[:, 1:] = layer(x)[:, 1:] if values is None else values
            return layer(x) * memory

    compiled = torch.compile(forward, backend="eager", fullgraph=True)
    compiled(torch.ones(2, 3), torch.ones(2, 2))  # of constants
    with pytest.raises(Exception, match="assignment to slices"):
        compiled(torch.ones(2, 3), None)


@pytest.mark.compiled
@pytest.mark.usefixtures("compiler")
def test_graph_is_shown_as_far_as_it_is_known() -> None:
    """What ``comptime`` hands over: the nodes so far, with their values, and the target of each."""
    found: list[Any] = []

    def look(context: Any) -> None:
        found.extend(node for node in context.graph().nodes if node.op == "call_function")

    def forward(x: Tensor) -> Tensor:
        memory = torch.zeros(3)
        memory[0] = x.sum()
        torch._dynamo.comptime.comptime(look)
        return memory.exp()

    torch.compile(forward, backend="eager", fullgraph=True)(torch.ones(3, requires_grad=True))
    (write,) = (node for node in found if node.target is operator.setitem)
    assert isinstance(write.args[0].meta["example_value"], Tensor)
    assert torch.exp not in [node.target for node in found]


@pytest.mark.compiled
@pytest.mark.parametrize("never", [True, False])
@pytest.mark.usefixtures("compiler")
def test_what_runs_where_a_graph_breaks_off_is_compiled_or_never(never: bool) -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    run: Any = Mode.__torch_function__
    run.__code__ = run.__code__.replace()  # of this case alone
    if never:
        _torch.never_compiled(run)
    torch._dynamo.utils.counters.clear()
    with Mode():
        torch.compile(nn.LSTM(2, 2), backend="eager")(torch.ones(2, 2, 2))
    assert torch._dynamo.utils.counters["frames"]["ok"] == (0 if never else 1)


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["context too", "model"])
@pytest.mark.usefixtures("compiler")
def test_compiled_context_is_refused_by_a_torch_that_cannot_compile_it(
    inside: bool, fullgraph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_torch, "check_of_graph", _torch.refused_graph)
    layer = nn.Linear(3, 3)

    def forward(x: Tensor) -> Tensor:
        with lfp.feedback():
            return layer(x)

    function: Any = forward if inside else layer
    compiled = torch.compile(function, backend="eager", fullgraph=fullgraph)
    outside = contextlib.nullcontext() if inside else lfp.feedback()
    with pytest.raises(Exception, match=r"needs torch 2\.11 or newer"), outside:
        compiled(torch.ones(2, 3))


# --- what the engine asks of a version ------------------------------------------------------------


def test_oldest_torch_is_the_one_that_the_project_asks_for() -> None:
    assert _torch.RELEASE >= _torch.OLDEST
    assert _torch.OLDEST_COMPILED >= _torch.OLDEST
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        pytest.skip("not in a checkout of the project")
    text = (root / "pyproject.toml").read_text()
    _, _, behind = text.partition("\ndependencies = [")
    needed = re.findall(r'^ +"([\w-]+)>=([\d.]+)"', behind.partition("\n]")[0], re.M)
    assert dict(needed)["torch"] == ".".join(map(str, _torch.OLDEST))
    oldest = re.findall(r"^([\w-]+)==([\d.]+?)(?:\.\*)?$", OLDEST.read_text(), re.M)
    assert set(needed) <= set(oldest)


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.8.0", (2, 8)), ("2.14.1+cu130", (2, 14)), ("2.9.0a0+gitabc", (2, 9)), ("3.0", (3, 0))],
)
def test_release_is_read_from_the_version(version: str, release: tuple[int, int]) -> None:
    assert _torch.release(version) == release


def test_older_torch_is_refused_with_the_version_that_is_needed() -> None:
    with pytest.raises(ImportError, match=r"needs torch 2\.8 or newer.*this is torch 2\.7\.1"):
        _torch.require("2.7.1+cpu")
    _torch.require("2.8.0")
