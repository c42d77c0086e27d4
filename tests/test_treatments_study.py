"""The studies of LFP's options: which trials there are, what is chosen, and what is quoted."""

import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.experiments import initial_feedback
from benchmarks.experiments.conduct import Done, Status, carry_out, status
from benchmarks.experiments.initial_feedback import InitialFeedback
from benchmarks.experiments.language.options import Options as LanguageOptions
from benchmarks.experiments.language.runs import LanguageRun, at_start, runs_of, untrained
from benchmarks.experiments.language.text import corpus, windows
from benchmarks.experiments.treatments import Options, Treatments, runs
from benchmarks.experiments.treatments.networks import NETWORKS, Network
from benchmarks.models.llama import Llama
from benchmarks.storage.provenance import ROOT
from tests.studies import place

CPU = torch.device("cpu")
SMALL = Options(
    networks=["sigmoid"],
    arms={"identity": {"units": "identity"}, "reverse": {"units": "reverse"}},
    optimizer="adam",
    learning_rates=[0.003, 0.01],
    epsilons=[1e-6, 0.1],
    sweep_epochs=1,
    sweep_seeds=1,
    epochs=1,
    seeds=2,
)
#: The tables that the documentation quotes, and where it does.
QUOTED = {
    "units-cpu/digits": "activations.md",
    "gates-cpu/sgd": "activations.md",
    "gates-cpu/adam": "activations.md",
    "initial-feedback-cpu/gates": "activations.md",
    "normalisation-cpu/llama": "transformers.md",
}


def treated(folder: Path, options: Options = SMALL) -> Done:
    return carry_out(Treatments(), options, folder, place())


@pytest.mark.slow
def test_every_arm_has_as_many_trials_and_the_best_is_chosen(tmp_path: Path) -> None:
    found, (section,), _ = treated(tmp_path)
    (table,) = section.tables
    rows = table.frame.to_dict("records")
    assert [row["arm"] for row in rows] == ["identity", "reverse", "gradient"]
    for row in rows:
        results = [s.result for s in found.runs.values() if s.run.label == f"sigmoid {row['arm']}"]
        tried = [result for result in results if result.run.kind == "sweep"]
        assert len(tried) == 4
        assert row["validation_accuracy"] == max(result.validation or 0 for result in tried)
        finals = [result for result in results if result.run.kind == "final"]
        assert row["test_accuracy_mean"] == mean(result.test or 0 for result in finals)
        assert {result.run.settings.learning_rate for result in finals} == {row["learning_rate"]}
    kind = Treatments()
    assert len(found.runs) == kind.runs(SMALL)
    assert status(kind, SMALL, tmp_path) == Status(done=kind.runs(SMALL))


@pytest.mark.slow
def test_a_trial_that_diverged_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(input_shape: tuple[int, ...]) -> nn.Module:
        model = NETWORKS["softplus"].build(input_shape)
        nn.init.constant_(next(model.parameters()), float("nan"))
        return model

    monkeypatch.setattr(runs, "NETWORKS", {"sigmoid": Network(lost, "none")})
    _, (section,), _ = treated(tmp_path)
    assert [row[-1] for row in section.tables[0].lines[1]] == ["2/2"] * 3
    assert set(section.tables[0].frame["validation_accuracy"]) == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["sigmoyd"]}, "networks: unknown name 'sigmoyd'; did you mean 'sigmoid'?"),
        ({"networks": ["lstm", "lstm"]}, "networks: 'lstm' is given twice"),
        ({"arms": {"gradient": {}}}, "arms: 'gradient' is always there; allowed: other names"),
        ({"arms": {"a": {"unit": "reverse"}}}, "arms.a: unknown name 'unit'; did you mean 'units'"),
        ({"arms": {"a": {"units": "even"}}}, "units must be 'identity' or"),
        ({"arms": {"a": {"epsilon": 0.1}}}, "arms.a: unknown name 'epsilon'"),
        ({"learning_rates": [-1.0]}, "learning_rate must be finite and > 0, not -1.0"),
        ({"epsilons": [0.1, 0.1]}, "epsilons: 0.1 is given twice"),
        ({"dataset": "mnist", "networks": ["lstm"]}, "networks: 'lstm' with mnist; allowed: with"),
        ({"dataset": "minst"}, "dataset: unknown name 'minst'"),
        ({"against": "shifted"}, "against: unknown name 'shifted'"),
        ({"slopes": [1.0]}, "slopes: 1 values; allowed: as many as epsilons, 2"),
        ({"slopes": [1.0, 2.0]}, "slopes: [1.0, 2.0] with the network 'sigmoid'; allowed: none"),
        ({"networks": ["heaviside"], "slopes": [0.0, 2.0]}, "slope must be finite and > 0"),
        ({"arms": {"a": {"output_epsilon": -1.0}}}, "output_epsilon must be finite and >= 0"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Treatments().runs(SMALL.model_copy(update=changes))


@pytest.mark.slow
def test_a_step_has_a_surrogate_gradient_beside_lfp(tmp_path: Path) -> None:
    changes = {"arms": {"lfp": {}}, "against": "gradient", "slopes": [1.0, 10.0], "seeds": 3}
    networks = ["heaviside, noise", "heaviside to the outputs"]
    options = SMALL.model_copy(update={**changes, "networks": networks})
    found, sections, _ = treated(tmp_path, options)
    arms, paired, _ = sections
    assert {(s.run.method, s.run.kind) for s in found.runs.values()} == {
        (method, kind) for method in ("lfp", "surrogate") for kind in ("sweep", "final")
    }
    assert arms.figures[0].draw().startswith(b"\x89PNG")
    frame = arms.tables[0].frame
    assert frame["slope"].notna().tolist() == [False, True] * 2
    differences = paired.tables[0].frame
    assert differences["quantity"].tolist() == networks
    means = frame["test_accuracy_mean"].tolist()
    assert differences["difference"].tolist() == pytest.approx(
        [100 * (means[0] - means[1]), 100 * (means[2] - means[3])]
    )


def test_feedback_is_compared_on_the_same_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str) -> nn.Module:
        layers = nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Dropout(0.5)
        return nn.Sequential(*layers, nn.Linear(8, initial_feedback.CLASSES))

    monkeypatch.setattr(initial_feedback, "NETWORKS", {"small": small})
    options = initial_feedback.Options(
        networks=["small"],
        arms={"plain": {"epsilon": 0.0}, "damped": {"epsilon": 0.5}},
        side=32,
    )
    kind = InitialFeedback()
    assert kind.runs(options) == 2 * 3
    plain, *_, damped = (kind.make(run, CPU, None).details for run in kind.plan(options, {}))
    # LFP-0 on a ReLU network is |w| times the gradient, whatever the dropout.
    assert (plain["ratio"], plain["cosine"]) == (pytest.approx(1, rel=1e-5),) * 2
    assert damped["ratio"] < 0.9


def test_an_unknown_network_or_side_is_refused() -> None:
    kind, arms = InitialFeedback(), {"plain": dict[str, Any]()}
    with pytest.raises(ValueError, match="networks: unknown name 'maxvit'"):
        kind.runs(initial_feedback.Options(networks=["maxvit"], arms=arms))
    with pytest.raises(ValueError, match="side: 32; allowed with maxvit_t: 64"):
        kind.runs(initial_feedback.Options(arms=arms, side=32))


def test_the_small_llama_sees_no_character_before_its_time() -> None:
    torch.manual_seed(0)
    model = Llama(11, features=16, blocks=2, context=8)
    text = torch.randint(11, (1, 8))
    changed = text.clone()
    changed[0, 5] = (text[0, 5] + 1) % 11
    before, after = model(text), model(changed)
    assert torch.allclose(before[:5], after[:5])
    assert not torch.allclose(before[5:], after[5:])


def test_the_first_batch_of_a_language_model_is_told_by_depth() -> None:
    options = LanguageOptions(
        model="llama",
        optimizers=["adam"],
        epsilons=[1e-6],
        attentions=["uniform"],
        normalisations=["gradient", "identity"],
        learning_rates={"adam": [0.01]},
        steps=10,
        context=8,
        features=16,
    )
    details = []
    for arm in options.arms():
        run: LanguageRun = runs_of(arm, options)[0.01][0]
        text = corpus()
        model = untrained(run, text.characters)
        assert isinstance(model, Llama)
        details.append(at_start(model, run, *windows(text.train, [0, 50], options.context)))
        assert all(p.grad is None for p in model.parameters())
    gradient, default, identity = details
    assert gradient["cosine"] == pytest.approx(1)
    assert len(gradient["by_depth"]) == options.layers
    assert default["cosine"] != identity["cosine"]


@pytest.mark.parametrize("part", QUOTED)
def test_the_documentation_quotes_the_stored_tables(part: str) -> None:
    stored = (ROOT / "benchmarks" / "stored" / part / "table.md").read_text()
    table = "".join(line + "\n" for line in stored.splitlines() if line.startswith("| "))
    assert table in (ROOT / "docs" / QUOTED[part]).read_text()
