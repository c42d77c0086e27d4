"""The page docs/gpu.md, of what was measured on a GPU.

``lfp-bench perf gpu-page`` writes it from `benchmarks/stored/gpu-h100`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.conduct import find
from benchmarks.performance.precision import SAMPLES
from benchmarks.performance.spiking import GRAPH, REFERENCE
from benchmarks.rendering.text import markdown, origins
from benchmarks.studies.collect import described

TITLES = {
    "mlp": "MLP",
    "lenet": "LeNet",
    "vgg-like": "VGG-like",
    "resnet18": "ResNet-18",
    "vit-tiny": "ViT, tiny",
    "vgg16": "VGG-16",
}
ACTIVATIONS = ("relu", "silu", "elu", "tanh", "sigmoid", "heaviside")
Runs = Sequence[Mapping[str, Any]]

TEXT = """\
# On a GPU

`lfp-bench perf gpu all` measures what is here, and `lfp-bench perf gpu-page` writes this page from
what is [stored](../benchmarks/stored/gpu-h100).

## A training step

A step is forward, loss or reward, backward, clipping, and SGD with momentum, on a batch of
{batch}. Times are medians of ten steps that the device is given at once, in milliseconds; ratios
are to the SGD step that is made in the same way, taken in turn with it (median over rounds).
Convolutions are in TF32 and matrix products in float32, which is torch's default.

With ReLU:

{relu}
- **Eagerly, LFP is bound by the processor**, for which an operation of LFP is more work than one of
  torch. The device waits: as one graph, LFP's step takes between two thirds and a twentieth of its
  eager time. How far VGG-16 keeps the device busy depends on the processor: LFP's eager step was
  1.15 times SGD's beside a faster one.
- **As one CUDA graph, LFP takes {graph} times as long as SGD**: nothing is left but the kernels.
  The multiplication by |w| is a kernel for each parameter. In VGG-16 it moves 1.6 GB for 134
  million weights, which at the 3 TB/s of the device are 0.5 of the 0.7 ms that LFP adds with
  ReLU.
- **The eager and graph steps with ReLU were measured later than the rest**, and those of the ViT
  with other activations in between, on machines of the same kind with slower processors.
- **Compiled, and as a graph, it takes {compiled} times as long** as SGD that is made in the same
  way.

[examples/cuda_graph.py](../examples/cuda_graph.py) makes a step a graph, in ten lines.

Time of LFP's step over SGD's, eagerly:

{eager_grid}
Time of LFP's step over SGD's, both as one CUDA graph:

{graph_grid}
Heaviside is compared with SGD's step with ReLU, as no gradient passes a step.

## Spiking networks

784-1000-10 with T = {spiking_steps} and a batch of {spiking_batch} ([times]({spiking_times})), by
`lfp-bench perf spiking --device cuda`. A fused step makes all time steps of a layer in one product
and one scan; the surrogate gradient is snntorch's backpropagation through time. Milliseconds, and
how many times as long as a fused step of LFP in the same way:

{spiking}
- **A scan is one kernel for each layer and direction** (`lfp_core/spiking_kernels.py`), in which a
  thread takes a neuron through all time steps. Its values are those of the operations of torch,
  bit for bit.
- **As a CUDA graph a fused step takes a tenth to a fifteenth of its eager time.** Studies on a GPU
  train spiking networks with graphs, as they do others
  ([results](results.md#spiking-networks-without-surrogate-gradients)).

## Precision

The relative error of all feedback (of all gradients for SGD) to float64 on the CPU, at the first
step, for a batch of {samples} in evaluation mode:

{precision}
- **TF32 is not enough for LFP with a small epsilon and units with f(0) != 0.** LFP divides by the
  pre-activation: where it is close to 0, ten bits of precision do not tell its sign. An error of
  1 means that nothing of the feedback is left. torch uses TF32 for convolutions unless it is told
  otherwise; `torch.backends.cudnn.allow_tf32 = False` tells it. The studies of this project do so,
  unless they say `convolutions: tf32`.
- **A larger epsilon helps**: in float32, 0.3 takes between one and three digits of the sigmoid's
  error away. It does not help a step function whose pre-activation changes its sign, with which
  the network computes something else: there, the gradient of the last layer is wrong as well.
- **bfloat16 suits ReLU, SiLU, ELU and tanh** about as well with LFP as with SGD.

## Training on CIFAR-10

`lfp-bench run cifar10 --size gpu --device cuda` trains the VGG-like network as the paper has it:
50 epochs, one cycle of rate and momentum up to the rate 0.1 for both methods, norms clipped at 3,
LFP's rewards summed over the batch, images standardised. Nothing is tuned. Each step is a CUDA
graph. What differs from the paper: 5000 of the 50000 train images are for validation, and there are
one or two seeds.

{cifar}
The tables with all that belongs to them:
[ReLU]({stored}/paper-relu/table.md), [SiLU, ELU and tanh]({stored}/paper/table.md),
[Heaviside]({stored}/paper-heaviside/table.md), [sigmoid]({stored}/paper-sigmoid/table.md).

- **With ReLU, LFP learns CIFAR-10 as far as SGD does**: the authors' notebook has 82.44 for LFP and
  84.02 for SGD, each the mean of three seeds. Two seeds cannot tell which of the two is better.
- **With Heaviside, LFP stays at chance at an epsilon of 1e-6.** Each layer divides by
  pre-activations, and the feedback grows until, in one step of 17600, the square of its norm is too
  large for float32. Clipping multiplied that feedback by 0, and the run went on, as it does in the
  authors' code. Steps that are left out are thus not why LFP does not learn here.
- **With the sigmoid, LFP's run is older**: it ended at the first such step, and was not made again.
- **SGD does not learn either with the sigmoid at this rate**, and with Heaviside it trains the last
  layer alone.

LeNet for images of 32 x 32 learns for 10 epochs, in `lfp-bench run cifar10 --part lenet --size gpu
--device cuda`. Every method has 16 trials of its own space for each activation, of two epochs with
one seed. Test accuracy in %, mean and standard deviation over three seeds
([the table]({stored}/lenet/table.md)):

{lenet}
- **With ReLU, LFP is level with SGD. With SiLU, ELU and tanh it is 11 to 16 points behind.** The
  intervals of these differences exclude 0, though three seeds are too few for a permutation test.
  It is 4 to 10 points behind SGD times |w|. **About half of that is the search**: trials of two
  epochs choose steps that are too large for ten. LFP with the options that ReLU chose, which take
  smaller steps, has [57.8 ± 0.7 with SiLU, 58.9 ± 1.0 with ELU and 57.0 ± 0.4 with
  tanh](../benchmarks/stored/cifar10-cpu/lenet-smaller-steps/table.md), 6 to 8 points behind SGD.
  These options are not tuned for these activations, so that a search with longer trials may come
  closer still.
- **With the sigmoid none of these learns in 10 epochs. With Heaviside LFP does not either**, and a
  surrogate gradient reaches 48%. All of LFP's trials were near chance there, so nothing was tuned.
- **Feedback alignment**, by a search of the same trials on a CPU
  ([table](../benchmarks/stored/cifar10-cpu/lenet/table.md)), has 41.1 ± 0.4 with ReLU, 26.8 ± 4.7
  with SiLU, 47.3 ± 1.0 with ELU and 47.3 ± 1.2 with tanh: behind LFP with all four, by 3 to 27
  points. With the sigmoid it has 38.6 ± 0.8, where the others stay near chance: its feedback
  weights were chosen eight times as large as usual, so that what they hand down does not vanish as
  the gradient does.

## Studies of small networks

The kernels of a small network leave most of a GPU idle, and processes take turns on it. NVIDIA's
MPS lets those of several processes run at once; the grid of spiking networks and LeNet on MNIST
were made so, with five and seven jobs:

```bash
nvidia-cuda-mps-control -d
lfp-bench run snn-grid --size gpu --device cuda --jobs 5 --threads 1
echo quit | nvidia-cuda-mps-control
```

## What was not measured

- The errors of ResNet-18 but with ReLU.
- The times of the asv suite: a process takes ten seconds to start there.
- CIFAR-10 with the VGG-like network and a larger epsilon (part larger-epsilon of the study): the
  time on the device was over.

## Where

{origins}
"""


def page(folder: Path) -> str:
    """Return the page, from steps.json, precision.json and spiking.json in the folder."""
    steps, errors = (json.loads((folder / f"{n}.json").read_text())["runs"] for n in NAMES)
    spikes = json.loads((folder / SPIKING).read_text())
    graphs = [_ratio(run, "lfp graph") for run in steps]
    compiled = [_ratio(run, "lfp compiled graph") for run in steps]
    environments = [run["environment"] for run in (*steps, *errors, spikes)]
    return TEXT.format(
        batch=steps[0]["batch"],
        relu=markdown(_relu(steps)),
        graph=_range(graphs),
        compiled=_range(compiled),
        eager_grid=markdown(_grid(steps, "lfp")),
        graph_grid=markdown(_grid(steps, "lfp graph")),
        spiking_steps=spikes["steps"],
        spiking_batch=spikes["batch"],
        spiking_times=f"../benchmarks/stored/{folder.name}/{SPIKING}",
        spiking=markdown(_spiking(spikes)),
        samples=SAMPLES,
        precision=markdown(_precision(errors)),
        cifar=markdown(_cifar(folder.parent / CIFAR)),
        lenet=markdown(_accuracies(folder.parent / CIFAR / "lenet")),
        stored=f"../benchmarks/stored/{CIFAR}",
        origins="\n".join(f"- {origin}" for origin in origins(environments)),
    )


NAMES, SPIKING = ("steps", "precision"), "spiking.json"
#: Of the stored studies, the one of CIFAR-10.
CIFAR = "cifar10-gpu"


def _spiking(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the times of a step of a spiking network, of each input and way of making it."""
    header = ["input", "method", "eager, ms", "to fused LFP", "graph, ms", "to fused LFP"]
    rows = []
    for coding in ("constant", "rate code"):
        times = {way: each["seconds"] for way, each in found[coding].items()}
        for method in (way for way in times if not way.endswith(GRAPH)):
            row = [coding, method.replace("lfp", "LFP").replace("surrogate", "surrogate gradient")]
            for way in ("", GRAPH):
                seconds = times.get(f"{method}{way}")
                ratio = None if seconds is None else seconds / times[f"{REFERENCE}{way}"]
                row += ["-" if seconds is None else f"{1e3 * seconds:.2f}", _cell(ratio)]
            rows.append(row)
    return header, rows


def _cifar(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Return the accuracies of the parts of a stored study that have the paper's settings."""
    header = ["activation", "method", "test accuracy %", "largest norm", "diverged"]
    parts = ("paper-relu", "paper", "paper-heaviside", "paper-sigmoid")
    return header, [row for part in parts for row in _columns(folder / part, header)]


def _accuracies(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Return the accuracies of a stored comparison, a row for each activation."""
    found: dict[str, dict[str, str]] = {}
    for activation, method, told in _columns(folder, ["activation", "method", "test accuracy %"]):
        found.setdefault(activation, {})[method] = told.removesuffix(" (last layer alone)")
    methods = list(dict.fromkeys(method for row in found.values() for method in row))
    rows = [[activation, *(row[method] for method in methods)] for activation, row in found.items()]
    return ["activation", *methods], [[_brief(cell) for cell in row] for row in rows]


def _brief(cell: str) -> str:
    return "-" if cell.startswith("-") else cell


def _columns(folder: Path, header: Sequence[str]) -> list[list[str]]:
    """Return columns of the first table of a part that is stored."""
    description = described(folder / "study.json")
    assert description is not None, f"{folder.name} is not stored"
    found = find(description.kind, description.options, folder)
    table = description.kind.sections(description.options, found)[0].tables[0]
    columns = [table.lines[0].index(name) for name in header]
    return [[line[column] for column in columns] for line in table.lines[1]]


def _ratio(run: Mapping[str, Any], variant: str) -> float | None:
    """Return the median ratio to SGD that is made in the same way."""
    found = run["steps"].get(variant, {}).get("to SGD, same variant")
    return None if found is None else float(found[1])


def _range(ratios: Sequence[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{min(known):.2f} to {max(known):.2f}"


def _cell(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _relu(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Return the table of all ways of making a step with ReLU."""
    header = ["network", "SGD, ms", "LFP / SGD", "memory, LFP / SGD", "SGD times weight / SGD"]
    header += ["bfloat16: SGD, ms", "LFP / SGD", "graph: SGD, ms", "LFP / SGD"]
    header += ["compiled graph: SGD, ms", "LFP / SGD"]
    rows = []
    for name, title in TITLES.items():
        run: dict[str, Any] = {"steps": {}}
        for each in runs:
            if (each["model"], each["activation"]) == (name, "relu"):
                run["steps"] |= each["steps"]
        made = run["steps"]
        memory = made["lfp"]["peak_bytes"] / made["sgd"]["peak_bytes"]
        row = [title, _ms(made, "sgd"), _cell(_ratio(run, "lfp")), f"{memory:.2f}"]
        row.append(_cell(_ratio(run, "wsgd")))
        for way in ("bf16", "graph", "compiled graph"):
            row += [_ms(made, f"sgd {way}"), _cell(_ratio(run, f"lfp {way}"))]
        rows.append(row)
    return header, rows


def _ms(made: Mapping[str, Any], variant: str) -> str:
    return f"{1e3 * made[variant]['seconds']:.2f}" if variant in made else "-"


def _grid(runs: Runs, variant: str) -> tuple[list[str], list[list[str]]]:
    """Return the table of ratios by network and activation."""
    ratios = {(run["model"], run["activation"]): _ratio(run, variant) for run in runs if _has(run)}
    rows = [
        [title, *(_cell(ratios.get((name, activation))) for activation in ACTIVATIONS)]
        for name, title in TITLES.items()
    ]
    return ["network", *ACTIVATIONS], rows


def _has(run: Mapping[str, Any]) -> bool:
    """Return whether a run is of eager steps and graphs, and not of compiled ones alone."""
    return "lfp" in run["steps"]


def _precision(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Return the table of errors: by network and activation, of each method."""
    precisions = list(next(iter(runs[0]["errors"].values())))
    header = ["network", "activation", "method", *precisions]
    rows = [
        [
            TITLES[run["model"]],
            run["activation"],
            method.replace("lfp", "LFP,").replace("sgd", "SGD"),
            *("overflow" if error is None else f"{error:.0e}" for error in errors.values()),
        ]
        for run in sorted(runs, key=lambda r: (list(TITLES).index(r["model"]), _order(r)))
        for method, errors in run["errors"].items()
    ]
    return header, rows


def _order(run: Mapping[str, Any]) -> int:
    return ACTIVATIONS.index(run["activation"])
