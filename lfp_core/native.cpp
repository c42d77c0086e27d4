// For the CPU: what lfp_core/slopes.py has for weights, ReLU and linear layers, the reward `softmax`
// of lfp_core/rewards.py, and the time steps of lfp_core/spiking.py.
//
// In small networks most of what LFP costs more than SGD is Python that runs between the kernels.
// A scan over time reads and writes its memory once in the place of ten times. These functions
// compute the same numbers by the same operations, bit for bit. Each returns None, or false, for
// tensors that it is not made for, which Python then takes.
//
// What a loop computes here is elementwise, and in the order of the operations in Python; it must
// not be compiled to fused multiply-adds, which round once where two operations round twice.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <type_traits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/utils/pybind.h>

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<Tensor>;

// Newer versions of torch count who holds a node of autograd in the node itself, and older ones by
// the standard library's pointers.
template <typename T>
auto make_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::make_intrusive<T>();
  } else {
    // Found by its argument, as newer versions do not have it.
    return std::shared_ptr<T>(new T(), [](auto* node) { deleteNode(node); });
  }
}

template <typename T>
auto pointer_to(T* node) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::intrusive_ptr<T>::unsafe_reclaim_from_nonowning(node);
  } else {
    return node->shared_from_this();
  }
}

// Whether the values lie in the memory of the CPU, and no mode and no transform wants to see the
// operations: so of no fake, sparse, quantised or conjugated tensor, and of none of a vmap.
bool is_dense(const Tensor& t) {
  static const c10::DispatchKeySet keys(
      {c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutogradCPU,
       c10::DispatchKey::AutocastCPU});
  return t.key_set() == keys && !c10::impl::dispatch_mode_enabled();
}

bool is_plain(const Tensor& t) {
  return is_dense(t) && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble);
}

bool is_plain_as(const Tensor& t, const Tensor& other) {
  return is_plain(t) && t.scalar_type() == other.scalar_type();
}

bool is_trained(const Tensor& t) {
  return is_plain(t) && t.requires_grad() && c10::GradMode::is_enabled() &&
      !at::autocast::is_autocast_enabled(at::kCPU);
}

// Whether one loop over both is faster than operations, which use several threads.
bool in_one_loop(const Tensor& a, const Tensor& b) {
  return is_plain(a) && is_plain_as(b, a) && a.sizes() == b.sizes() && a.is_contiguous() && b.is_contiguous() &&
      (a.numel() <= at::internal::GRAIN_SIZE || at::get_num_threads() == 1);
}

// Return f(a, b) of each pair of values, in the memory of b if nothing else can see it.
template <typename Function>
Tensor elementwise(const Tensor& a, Tensor&& b, const Function& f) {
  const bool own = b.use_count() == 1 && b.storage().use_count() == 1;
  Tensor out = own ? b : at::empty_like(b);
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "lfp_elementwise", [&] {
    const auto* x = a.const_data_ptr<scalar_t>();
    const auto* y = b.const_data_ptr<scalar_t>();
    auto* z = out.mutable_data_ptr<scalar_t>();
    for (int64_t i = 0, n = a.numel(); i < n; ++i) {
      z[i] = f(x[i], y[i]);
    }
  });
  return out;
}

// Return |w| g, which is sparse if g is: of an embedding's rows that were taken.
Tensor scaled(const Tensor& w, Tensor&& g) {
  if (g.is_sparse()) {
    torch::List<std::optional<Tensor>> rows;
    for (const Tensor& row : g._indices().unbind()) {
      rows.push_back(row);
    }
    return at::_sparse_coo_tensor_unsafe(
        g._indices(), w.index(rows).abs().mul_(g._values()), g.sizes());
  }
  if (c10::GradMode::is_enabled() || !in_one_loop(w, g)) {
    return w.abs().mul_(g);
  }
  return elementwise(w, std::move(g), [](auto x, auto y) { return std::abs(x) * y; });
}

// slopes.WeightScale: the gradient of a parameter is multiplied by its magnitude.
struct LFPWeightScale : Node {
  SavedVariable weight;

  variable_list apply(variable_list&& gradients) override {
    Tensor g = std::move(gradients[0]);
    if (!g.defined()) {
      return {g};
    }
    return {scaled(weight.unpack(), std::move(g))};
  }

  void release_variables() override { weight.reset_data(); }
  std::string name() const override { return "LFPWeightScale"; }
};

MaybeTensor weight_scale(const Tensor& weight) {
  if (!is_trained(weight)) {
    return {};
  }
  Tensor out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = at::alias(weight);
  }
  // What is written to the parameter is seen where this is kept for the backward pass.
  torch::autograd::impl::set_version_counter(
      out, torch::autograd::impl::version_counter(weight));
  auto node = make_node<LFPWeightScale>();
  node->set_next_edges(torch::autograd::collect_next_edges(weight));
  node->weight = SavedVariable(weight, /*is_output=*/false);
  torch::autograd::set_history(out, node);
  return out;
}

// slopes.ReluSlope for eps > 0: the reward passes through by a / (a + eps).
struct LFPReluSlope : Node {
  SavedVariable output;
  double epsilon = 0;

  variable_list apply(variable_list&& gradients) override {
    Tensor g = std::move(gradients[0]);
    if (!g.defined()) {
      return {g};
    }
    const Tensor a = output.unpack(pointer_to<Node>(this));
    if (c10::GradMode::is_enabled() || !in_one_loop(a, g)) {
      return {(a / (a + epsilon)).mul_(g)};
    }
    return {elementwise(a, std::move(g), [this](auto x, auto y) {
      return x / (x + static_cast<decltype(x)>(epsilon)) * y;
    })};
  }

  void release_variables() override { output.reset_data(); }
  std::string name() const override { return "LFPReluSlope"; }
};

MaybeTensor relu(const Tensor& z, double epsilon) {
  // A smaller epsilon has no normal number, and what is infinite stands for a spike's reward.
  const bool is_normal = epsilon >= std::numeric_limits<float>::min() && std::isfinite(epsilon);
  if (!is_normal || !is_trained(z)) {
    return {};
  }
  Tensor a;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    a = at::relu(z);
  }
  auto node = make_node<LFPReluSlope>();
  node->set_next_edges(torch::autograd::collect_next_edges(z));
  node->epsilon = epsilon;
  torch::autograd::set_history(a, node);
  node->output = SavedVariable(a, /*is_output=*/true);
  return a;
}

// torch's linear of a batch (samples, inputs), with the gradients of its parameters multiplied by
// their magnitudes: one node in the place of four.
struct LFPLinear : Node {
  SavedVariable input, weight, bias;

  variable_list apply(variable_list&& gradients) override {
    const Tensor g = std::move(gradients[0]);
    variable_list out(3);
    if (!g.defined()) {
      return out;
    }
    const Tensor w = weight.unpack();  // once, as torch.utils.checkpoint wants it
    if (task_should_compute_output(0)) {
      out[0] = g.mm(w);
    }
    if (task_should_compute_output(1)) {
      out[1] = scaled(w, g.t().mm(input.unpack()));
    }
    if (task_should_compute_output(2)) {
      out[2] = scaled(bias.unpack(), g.sum(0));
    }
    return out;
  }

  void release_variables() override {
    input.reset_data();
    weight.reset_data();
    bias.reset_data();
  }
  std::string name() const override { return "LFPLinear"; }
};

MaybeTensor linear(const Tensor& input, const Tensor& weight, const MaybeTensor& bias) {
  const bool is_batch = input.dim() == 2 && weight.dim() == 2 &&
      is_plain_as(input, weight);
  const bool has_bias = bias.has_value();
  if (!is_batch || !is_trained(weight) || (has_bias && !is_trained(*bias))) {
    return {};
  }
  Tensor out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = at::linear(input, weight, bias);
  }
  const Tensor b = bias.value_or(Tensor());
  auto node = make_node<LFPLinear>();
  node->set_next_edges(torch::autograd::collect_next_edges(input, weight, b));
  node->input = SavedVariable(input, /*is_output=*/false);
  node->weight = SavedVariable(weight, /*is_output=*/false);
  node->bias = SavedVariable(b, /*is_output=*/false);
  torch::autograd::set_history(out, node);
  return out;
}

// rewards.softmax of class indices: o (y - softmax(o)), by torch's kernels of log_softmax.
MaybeTensor softmax_reward(
    const Tensor& outputs, const Tensor& labels, bool mean, int64_t ignored) {
  const bool is_pair = is_plain(outputs) && outputs.dim() == 2 && is_dense(labels) &&
      labels.scalar_type() == at::kLong && labels.is_contiguous();
  if (!is_pair) {
    return {};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  const Tensor o = outputs.contiguous();
  const Tensor y = at::zeros_like(o);
  const int64_t rows = o.size(0), classes = o.size(1);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < rows; ++i) {
    if (label[i] != ignored) {
      TORCH_CHECK_INDEX(label[i] >= 0 && label[i] < classes, "Target ", label[i]);
      ++count;
    }
  }
  Tensor reward;
  AT_DISPATCH_FLOATING_TYPES(o.scalar_type(), "lfp_softmax_reward", [&] {
    auto* target = y.mutable_data_ptr<scalar_t>();
    const scalar_t share = scalar_t(1) / (mean ? count : 1);
    for (int64_t i = 0; i < rows; ++i) {
      if (label[i] != ignored) {
        target[i * classes + label[i]] = share;
      }
    }
    reward = at::_log_softmax_backward_data(y, at::log_softmax(o, 1), 1, o.scalar_type());
    const auto* x = o.const_data_ptr<scalar_t>();
    auto* r = reward.mutable_data_ptr<scalar_t>();
    for (int64_t i = 0; i < rows; ++i) {
      const bool left_out = label[i] == ignored;
      for (int64_t k = i * classes; k < (i + 1) * classes; ++k) {
        r[k] = left_out || r[k] == 0 ? 0 : r[k] * x[k];  // whose output may not even be finite
      }
    }
  });
  return reward;
}

// Whether the time steps of neurons with these currents (T, ...) are made for one loop. The same
// current at every step has a stride of 0 over time.
bool is_scan(
    const Tensor& currents, const Tensor& membrane, std::initializer_list<Tensor> constants) {
  const bool is_made_for = !c10::GradMode::is_enabled() && is_plain(currents) &&
      currents.dim() > 0 && currents.size(0) > 0 && currents[0].is_contiguous() &&
      is_plain_as(membrane, currents) && membrane.is_contiguous() &&
      membrane.sizes() == currents.sizes().slice(1);
  return is_made_for && std::all_of(constants.begin(), constants.end(), [&](const Tensor& t) {
    return is_plain_as(t, currents) && t.numel() == 1;
  });
}

// One time step of `units` neurons: what spiking._forward_in_time does at each.
template <typename scalar_t>
void fire(
    const scalar_t* __restrict__ before, const scalar_t* __restrict__ current,
    scalar_t* __restrict__ spike, scalar_t* __restrict__ after, int64_t units, scalar_t beta,
    scalar_t threshold, bool reset_delay) {
  for (int64_t i = 0; i < units; ++i) {
    const scalar_t reset = before[i] > threshold ? scalar_t(1) : scalar_t(0);
    const scalar_t u = before[i] * beta + current[i] - reset * threshold;
    const scalar_t fired = u > threshold ? scalar_t(1) : scalar_t(0);
    spike[i] = fired;
    after[i] = reset_delay ? u : u - (fired - reset) * threshold;
  }
}

// Fill the spikes and the membranes of all steps, each (T, ...), and return whether it was done.
bool forward_in_time(
    const Tensor& currents, const Tensor& membrane, const Tensor& beta, const Tensor& threshold,
    bool reset_delay, const Tensor& spikes, const Tensor& membranes) {
  const auto is_output = [&](const Tensor& t) {
    return is_plain_as(t, currents) && t.is_contiguous() && t.sizes() == currents.sizes();
  };
  if (!is_scan(currents, membrane, {beta, threshold}) || !is_output(spikes) ||
      !is_output(membranes)) {
    return false;
  }
  AT_DISPATCH_FLOATING_TYPES(currents.scalar_type(), "lfp_forward_in_time", [&] {
    const auto* c = currents.const_data_ptr<scalar_t>();
    const auto* first = membrane.const_data_ptr<scalar_t>();
    auto* s = spikes.mutable_data_ptr<scalar_t>();
    auto* u = membranes.mutable_data_ptr<scalar_t>();
    const auto decay = *beta.const_data_ptr<scalar_t>();
    const auto theta = *threshold.const_data_ptr<scalar_t>();
    const int64_t stride = currents.stride(0), all = membrane.numel();
    at::parallel_for(0, all, at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
      for (int64_t t = 0, row = begin; t < currents.size(0); ++t, row += all) {
        fire(
            t ? u + row - all : first + begin, c + t * stride + begin, s + row, u + row,
            end - begin, decay, theta, reset_delay);
      }
    });
  });
  return true;
}

// One time step of `units` neurons: what spiking._backward_in_time does at each. At the last of
// the steps there is no `later`, the q of the step after.
template <typename scalar_t>
void share(
    const scalar_t* __restrict__ before, const scalar_t* __restrict__ current,
    const scalar_t* __restrict__ reward, const scalar_t* __restrict__ after,
    const scalar_t* __restrict__ later, scalar_t* __restrict__ q, int64_t units, scalar_t beta,
    scalar_t epsilon, bool is_current) {
  for (int64_t i = 0; i < units; ++i) {
    const scalar_t v = before[i] * beta + current[i];
    const scalar_t n =
        (is_current ? std::abs(v - before[i]) + std::abs(before[i]) : std::abs(v)) + epsilon;
    const scalar_t r = later ? after[i] * later[i] * beta + reward[i] : reward[i];
    q[i] = epsilon == 0 && n == 0 ? scalar_t(0) : r / n;
  }
}

// q of all steps (T, ...), from the rewards of spikes or membranes, and the membranes of all steps
// but the last.
MaybeTensor backward_in_time(
    const Tensor& rewards, const Tensor& currents, const Tensor& membrane, const Tensor& earlier,
    const Tensor& beta, bool is_current, double epsilon) {
  const bool is_made_for = is_scan(currents, membrane, {beta}) &&
      is_plain_as(rewards, currents) && rewards.sizes() == currents.sizes() &&
      is_plain_as(earlier, currents) && earlier.is_contiguous() &&
      earlier.numel() == currents.numel() - membrane.numel();
  if (!is_made_for) {
    return {};
  }
  const Tensor dense = rewards.contiguous();
  const Tensor shares = at::empty(currents.sizes(), currents.options());
  AT_DISPATCH_FLOATING_TYPES(currents.scalar_type(), "lfp_backward_in_time", [&] {
    const auto* c = currents.const_data_ptr<scalar_t>();
    const auto* first = membrane.const_data_ptr<scalar_t>();
    const auto* u = earlier.const_data_ptr<scalar_t>();
    const auto* r = dense.const_data_ptr<scalar_t>();
    auto* q = shares.mutable_data_ptr<scalar_t>();
    const auto decay = *beta.const_data_ptr<scalar_t>();
    const int64_t stride = currents.stride(0), all = membrane.numel(), last = currents.size(0) - 1;
    at::parallel_for(0, all, at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
      for (int64_t t = last, row = last * all + begin; t >= 0; --t, row -= all) {
        share<scalar_t>(
            t ? u + row - all : first + begin, c + t * stride + begin, r + row, u + row,
            t < last ? q + row + all : nullptr, q + row, end - begin, decay,
            static_cast<scalar_t>(epsilon), is_current);
      }
    });
  });
  return shares;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  // Other threads run meanwhile, as they do during an operation of torch.
  const py::call_guard<py::gil_scoped_release> released;
  m.def("weight_scale", &weight_scale, released);
  m.def("relu", &relu, released);
  m.def("linear", &linear, released);
  m.def("softmax_reward", &softmax_reward, released);
  m.def("forward_in_time", &forward_in_time, released);
  m.def("backward_in_time", &backward_in_time, released);
}
