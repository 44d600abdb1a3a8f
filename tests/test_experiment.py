"""Experiments: second images, permuted labels, resuming, and tables that follow from rows alone."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from dmplus import cli, experiment, network, results, scoring, second_look, synthetic, training
from dmplus.experiment import Experiments, Run
from dmplus.inference import predict_volume
from dmplus.metrics import match_lesions
from dmplus.network import DeepMedic, preset
from dmplus.runtime import InputError, Machine
from dmplus.volume import Case, read_cohort, read_map, write_cohort, write_nifti

CPU = Machine("cpu", "float32", "test")


def case(name, patient, prior):
    image = np.full((4, 4, 4), float(len(name)), np.float32)
    before = None if prior is None else np.full((4, 4, 4), float(prior), np.float32)
    mask = np.ones((4, 4, 4), bool)
    mask[0] = False
    label = np.zeros((4, 4, 4), np.uint8)
    label[int(name[-1])] = 1
    return Case(name=name, patient=patient, image=image, mask=mask, prior=before, label=label)


CASES = [case("a0", "a", None), case("a1", "a", 1), case("a2", "a", 2), case("b3", "b", 3)]


def test_the_other_prior_is_never_the_patients_own_and_stays_inside_the_brain():
    other = experiment.with_second(CASES, "other")
    assert other[0].prior is None
    assert [c.prior[1, 0, 0] for c in other[1:]] == [3, 3, 1]
    assert all((c.prior[0] == 0).all() for c in other[1:])


def test_zeroed_current_and_recorded_second_images():
    assert all(c.prior is None for c in experiment.with_second(CASES, "zeroed"))
    assert all((c.prior == c.image).all() for c in experiment.with_second(CASES, "current"))
    assert experiment.with_second(CASES, "prior") == CASES
    with pytest.raises(InputError, match="got 'later'"):
        experiment.with_second(CASES, "later")


def test_permuted_labels_are_all_there_and_none_at_home():
    mixed = experiment.permuted(CASES, 0)
    where = [int(np.flatnonzero(c.label.any((1, 2)))[0]) if c.label.any() else 0 for c in mixed]
    assert sorted(where) == [0, 1, 2, 3]  # label 0 lies outside of the mask: cut away
    assert all(w != int(c.name[-1]) for w, c in zip(where, mixed, strict=True))


def test_permuted_labels_come_from_other_patients():
    shape = (4, 4, 4)
    visits = [
        Case(name=f"{p}{v}", patient=p, image=np.ones(shape), mask=np.ones(shape, bool), label=np.full(shape, ord(p), np.uint8))
        for p, n in (("a", 3), ("b", 2), ("c", 4), ("d", 1)) for v in range(n)
    ]  # fmt: skip
    for seed in range(20):
        mixed = experiment.permuted(visits, seed)
        assert [c.name for c in mixed] == [c.name for c in visits]
        assert sorted(c.label[0, 0, 0] for c in mixed) == sorted(c.label[0, 0, 0] for c in visits)
        assert all(c.label[0, 0, 0] != ord(c.patient) for c in mixed)


def test_every_run_has_one_name_and_a_configuration_that_says_what_it_is():
    runs = {r for part in experiment.SETS.values() for r in part}
    assert len({r.name for r in runs}) == len(runs)
    assert {r.start for r in runs} <= {"trunk", "scratch"} | {r.name for r in runs}
    for part in experiment.SETS.values():  # what a run goes on from stands before it
        names = ["trunk", "scratch", *(r.name for r in part)]
        assert all(r.start in names[: 2 + k] for k, r in enumerate(part))
    named = {*experiment.VOTERS, *(n for pool in experiment.POOLS.values() for n in pool)}
    assert named == {r.name for r in experiment.SETS["triage"]}
    assert all(r.validated for r in experiment.SETS["triage"] if r.name in sum(experiment.POOLS.values(), ()))
    full, paper = [experiment.config_of(run) for run in experiment.SETS["full"]], training.TrainConfig()
    assert {c.steps * c.batch for c in full} == {paper.steps * paper.batch}  # segments
    for run in runs:
        config = experiment.config_of(run)
        assert (config.loss, config.seed, config.network.prior) == (run.loss, run.seed, run.prior)
        assert f"s{run.seed}" in run.name and (run.loss == "bce" or f"{config.alpha:g}" in run.name)
        if run.start in experiment.RUNS:  # whose weights fit
            first = experiment.config_of(experiment.RUNS[run.start])
            assert first.network.prior in ("none", run.prior)  # a prior may be added, not taken away
            assert dataclasses.replace(first.network, prior=run.prior) == config.network


def test_whole_brains_are_for_the_network_named_and_all_leaves_them_out(monkeypatch, tmp_path):
    for name, network_, optimizer in (("whole", "quick", "adamw"), ("paper", "paper", "rmsprop")):
        runs = experiment.SETS[name]
        assert [(r.loss, r.prior) for r in runs] == [
            (loss, p) for p in ("none", "path") for loss in ("bce", "jvss", "jvss")
        ]
        for run in runs:
            config = experiment.config_of(run)
            assert config.network == preset(network_, prior=run.prior) and config.optimizer == optimizer
            assert (run.start == "scratch") == (run.loss == "bce")
    scratch, tuned = (experiment.config_of(r) for r in experiment.SETS["paper"][:2])
    assert scratch.learning_rate == training.TrainConfig().learning_rate > tuned.learning_rate
    assert (scratch.l1, scratch.l2, scratch.sampling) == (1e-6, 1e-4, training.SamplingConfig())
    asked = []
    monkeypatch.setattr(experiment, "main", lambda names, experiments, own: asked.extend(names))
    assert cli.main(["experiment", "all", "--cohort", str(tmp_path), "-o", str(tmp_path / "runs"), "--device", "cpu",
                     "--precision", "float32"]) == 0  # fmt: skip
    assert asked == [n for n in experiment.SETS if n not in ("whole", "paper", "full")]


def test_a_prior_channel_starts_where_the_network_without_one_was():
    torch.manual_seed(0)
    plain = DeepMedic(preset("smoke", prior="none"))
    torch.nn.init.normal_(plain.current.blocks[0].shift)
    grown = network.add_prior_channel(plain.eval())
    current, low = torch.randn(1, 1, 25, 25, 25), [torch.randn(1, 1, n, n, n) for n in (21, 20)]
    prior = torch.randn_like(current)
    assert torch.allclose(plain(current, low), grown(current, low, prior), atol=1e-5)
    assert grown.current.blocks[0].conv.weight[:, 1].abs().sum() == 0
    with pytest.raises(InputError, match="prior='none'"):
        network.add_prior_channel(grown)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    config = dataclasses.replace(
        synthetic.COHORTS["smoke"],
        shape=(40, 40, 40),
        patients=5,
        split=(2, 1, 2),
        visits=(0, 1.0),
        prior_share_test=0.5,
    )
    synthetic.generate(config, folder, progress=False)
    return folder


def small(run):
    config = experiment.config_of(run)
    return dataclasses.replace(config, network=preset("smoke", prior=run.prior), steps=2, batch=2)


def experiments(cohort, folder, **more):
    trunk = dataclasses.replace(small(Run(name="trunk")), steps=3)
    return Experiments(cohort, folder, machine=CPU, compile=False, config=small, trunk=trunk, **more)


def test_runs_are_scored_once_and_their_rows_are_those_of_the_maps(cohort, tmp_path):
    run = Run(name="jvss-0.5-path-s0", loss="jvss", prior="path", validated=True, controls=True)
    done = experiments(cohort, tmp_path / "runs")
    done.do(run)
    made = sorted(p.name for p in (tmp_path / "runs" / run.name).glob("rows.*"))
    conditions = ["0mm", "1mm", "2mm", "3mm", "other", "prior", "zeroed"]
    assert made == sorted([f"rows.test.{c}.csv.gz" for c in conditions] + ["rows.validation.prior.csv.gz"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.csv.gz")}
    experiments(cohort, tmp_path / "runs").do(run)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.csv.gz")}

    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    runs, visits = (pd.read_csv(tmp_path / "out" / f"{n}.csv") for n in ("runs", "visits"))
    rows = pd.read_csv(tmp_path / "out" / "rows.csv.gz")
    assert set(runs.second_image) == {"prior", "zeroed", "other", "0 mm", "1 mm", "2 mm", "3 mm"}
    assert set(visits.split) == {"validation", "test"}
    net = network.load(tmp_path / "runs" / run.name / "weights.safetensors")
    for visit in done.visits("test"):
        ready = visit.case.normalised()
        p = predict_volume(net, ready.image, prior=ready.prior, mask=ready.mask, machine=CPU)
        own = rows[(rows.case == visit.case.name) & (rows.second_image == "prior") & (rows.split == "test")]
        floor = int(runs[(runs.second_image == "prior") & (runs.split == "test")].floor.iloc[0])
        for level in (max(floor, scoring.HALF), 30):
            counted = match_lesions(visit.case.label, p >= scoring.LEVELS[level])
            assert scoring.counts(own, level) == (counted.tp_ref, counted.fn, counted.fp)


def test_a_run_trained_with_another_second_image_is_scored_on_every_visit(cohort, tmp_path):
    done = experiments(cohort, tmp_path / "runs")
    done.do(Run(name="jvss-0.5-path-other-s0", loss="jvss", prior="path", second="other"))
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    of_test = [v.case for v in done.visits("test")]
    rows = pd.read_csv(tmp_path / "out" / "rows.csv.gz")
    assert {c.prior is None for c in of_test} == {True, False}
    assert set(rows[rows.kind == "lesion"]["case"]) == {c.name for c in of_test if c.label.any()}


def test_fresh_patients_are_as_many_by_the_same_laws_and_none_of_the_cohorts(cohort, tmp_path):
    made = experiment.fresh_patients(cohort, tmp_path / "fresh")
    own, fresh = ([f.load() for f in read_cohort(c, split="train")] for c in (cohort, made))
    assert len({c.patient for c in own}) == len({c.patient for c in fresh}) == 2
    assert not {c.patient for c in own} & {c.patient for c in fresh}
    for a, b in zip(own, fresh, strict=False):
        assert a.shape == b.shape and not np.array_equal(a.image, b.image)
    done = experiments(cohort, tmp_path)
    assert {c.name for c in done._training(patients="fresh")} == {c.name for c in fresh}
    assert {c.name for c in done._training()} == {c.name for c in own}
    with pytest.raises(InputError, match="has no cohort.json"):
        experiment.fresh_patients(tmp_path, tmp_path / "more")


def test_false_positives_at_half_are_all_there_where_the_rows_are_cut_above_it(cohort, monkeypatch):
    visits = experiment.read_visits(cohort, "test")
    draw = np.random.default_rng(0)
    maps = {v.case.name: ndimage.gaussian_filter(draw.random(v.case.shape), 1.5) for v in visits}
    maps = {k: ((m - m.min()) / np.ptp(m)).astype(np.float32) * 0.95 for k, m in maps.items()}
    monkeypatch.setattr(experiment, "_map", lambda net, case, machine: maps[case.name])
    monkeypatch.setattr(experiment, "MOST", 3.0)
    rows = experiment.score_cases(None, visits, [v.case for v in visits], CPU, what="noise")
    floor = int(rows["floor"].iloc[0])
    assert floor > scoring.HALF + 1
    counted = [
        sum(match_lesions(v.case.label, maps[v.case.name] >= scoring.LEVELS[k]).fp for v in visits)
        for k in range(scoring.HALF, floor + 3)
    ]
    assert counted[0] > 3 * len(visits) >= counted[floor - scoring.HALF]
    known = [scoring.counts(rows, k)[2] for k in range(scoring.HALF, floor + 3)]
    assert known[0] == counted[0] and known[-3:] == counted[-3:]
    assert known != counted  # between them the rows are cut, as the floor says


OWN = """
ALPHAS = (0.9, 0.1)

def loss(prob, target, *, alpha):
    return (alpha * target * (1 - prob) ** 2 + (1 - alpha) * (1 - target) * prob**2).mean()
"""


def test_an_own_loss_is_trained_at_each_of_its_alphas(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOSSES", dict(training.LOSSES))
    file = tmp_path / "square.py"
    file.write_text(OWN)
    own = experiment.own_runs(*training.add_loss(file))
    assert [(r.name, r.loss, r.alpha) for r in own] == [
        ("square-0.9-s0", "square", 0.9),
        ("square-0.1-s0", "square", 0.1),
    ]
    start = DeepMedic(preset("smoke", prior="none")).eval()
    done = experiments(cohort, tmp_path / "runs", start=start)
    experiment.main(["own"], done, own=own)
    assert not (tmp_path / "runs" / "trunk").exists()  # what was given took its place
    histories = [pd.read_csv(tmp_path / "runs" / r.name / "history.csv") for r in own]
    assert all({"square", "loss"} <= set(h.columns) for h in histories)
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    config = dataclasses.replace(experiment.config_of(own[0]))
    assert float(training.cost(logits, target, config)["loss"]) == pytest.approx((0.9 * 0.25 + 0.1 * 0.25) / 2)


def test_controls_of_a_cohort_that_no_generator_made(cohort, tmp_path):
    """A prior of somebody's own cannot be moved, and without a prior there is nothing to take away."""
    own = tmp_path / "own"
    shutil.copytree(cohort, own)
    (own / "cohort.json").unlink()
    done = experiments(own, tmp_path / "runs")
    done.do(Run(name="path-s0", prior="path", controls=True))
    scored = {p.name.split(".")[2] for p in (tmp_path / "runs" / "path-s0").glob("rows.test.*")}
    assert scored == {"prior", "zeroed", "other"}
    files = read_cohort(own)
    write_cohort(own, [dataclasses.replace(f, prior=None) for f in files])
    done = experiments(own, tmp_path / "none")
    done.do(Run(name="path-s0", prior="path", controls=True))
    assert [p.name for p in (tmp_path / "none" / "path-s0").glob("rows.test.*")] == ["rows.test.prior.csv.gz"]


def test_a_run_that_changed_its_number_format_is_collected_with_both():
    result = {"precision": "float32"}
    assert experiment._precisions({"commit": "x"}, result) == "float32"  # nothing trained
    made = {"precision": "float32", "earlier": [{"until_step": 2, "precision": "bfloat16"}]}
    assert experiment._precisions(made, result) == "bfloat16 and float32"


def test_sets_and_single_runs_are_done_once_in_the_order_asked_for():
    done = []
    recorder = SimpleNamespace(
        use=lambda stack: None, do=lambda run: done.append(run.name), triage=lambda name: done.append(name)
    )
    experiment.main(["sse-0.2-s0", "control", "triage", "sse-0.2-s0"], recorder)
    assert done[:2] == ["sse-0.2-s0", "permuted-s0"] and done[-1] == "triage"
    assert sorted(done[2:-1]) == sorted(r.name for r in experiment.SETS["triage"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("jvss.py", OWN, "that is not bce"), ("my-loss.py", OWN, "letters, digits and _"),
     ("a.py", "x = 1", "expected a function `loss`"), ("b.py", OWN.replace("0.1)", "2)"), "ALPHAS from 0 to 1"),
     ("c.py", OWN.replace(".mean()", ""), "expected a finite scalar"),
     ("e.py", "import nothere", "got ModuleNotFoundError: No module named 'nothere', line 1; correct it"),
     ("f.py", "def loss(:", "got SyntaxError: "), ("g.py", OWN.replace("*, alpha", "beta"), "got TypeError: "),
     ("h.py", OWN.replace(".mean", ".men"), "no attribute 'men', line 5"), ("i.py", OWN + "ALPHAS = 0.5", "got TypeError: "),
     ("d.py", "def loss(prob, target, *, alpha):\n    return (prob * target).sum() / target.sum()", "without a lesion")],
)  # fmt: skip
def test_a_loss_that_cannot_be_trained_is_refused_in_words(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        training.add_loss(file)


def test_a_second_test_set_is_scored_and_collected_under_its_own_name(cohort, tmp_path):
    other = tmp_path / "other"
    config = dataclasses.replace(
        synthetic.COHORTS["smoke"], shape=(40, 40, 40), patients=2, split=(0, 0, 2), seed=7, name="elsewhere"
    )
    synthetic.generate(config, other, progress=False)
    done = experiments(cohort, tmp_path / "runs", second_test=other)
    done.do(Run(name="bce-s0", second_test=True))
    done.do(Run(name="bce-s1", seed=1))
    with pytest.raises(InputError, match="expected the second test set"):
        experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out", second_test=other)
    runs, visits = (pd.read_csv(tmp_path / "out" / f"{n}.csv") for n in ("runs", "visits"))
    assert sorted(zip(runs.run, runs.split, strict=True)) == [
        ("bce-s0", "second_test"), ("bce-s0", "test"), ("bce-s1", "test")]  # fmt: skip
    rows = pd.read_csv(tmp_path / "out" / "rows.csv.gz")
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert set(zip(lesions.case, lesions.id, strict=True)) >= {
        (t.case, t.id) for t in rows[rows.kind == "lesion"].itertuples()
    }
    assert {"first", "new", "growing"} & set(lesions.state)
    expected = {f.name for f in read_cohort(other, split="test")}
    assert set(visits[visits.split == "second_test"]["case"]) == expected
    assert set(rows[rows.split == "second_test"]["case"]) <= expected


def test_priors_out_of_place_are_made_anew_from_the_same_visit(cohort):
    cases = [v.case for v in experiment.read_visits(cohort, "test")]
    far, near = (experiment.remade_priors(cohort, cases, mm=mm) for mm in (3.0, 0.0))
    recorded = {c.name: c for c in cases if c.prior is not None}
    assert far.keys() == near.keys() == recorded.keys() and far
    for name, case in recorded.items():
        apart = [np.abs(x - near[name])[case.mask].mean() for x in (case.prior, far[name])]
        assert 0 < apart[0] < apart[1]


def test_a_healthy_prior_is_the_same_scan_before_any_metastasis(cohort, tmp_path):
    done = experiments(cohort, tmp_path)
    before = {c.name: c for c in done._training()}
    changed = 0
    for case in done._training("healthy"):
        own = before[case.name]
        np.testing.assert_array_equal(case.image, own.image)
        assert (case.prior is None) == (own.prior is None)
        if own.prior is None:
            continue
        apart = np.abs(case.prior - own.prior) / own.prior[own.mask].std()
        near = ndimage.binary_dilation(own.label > 0, iterations=8)  # lesion and oedema as they were, and out of place
        assert (apart[~near] < 0.5).mean() > 0.98
        changed += apart.max() > 1
    assert changed
    visits = done.visits("test")
    run = Run(name="jvss-0.5-path-healthy-s0", prior="path", second="healthy", loss="jvss")
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        scored = pd.DataFrame({"floor": [0]})
        patch.setattr(
            experiment,
            "score_cases",
            lambda net, visits, cases, machine, what, pool: seen.update({what: cases}) or scored,
        )
        (tmp_path / run.name).mkdir()
        for second in ("healthy", "prior"):
            done._score(run, DeepMedic(preset("smoke", prior="path")), "test", second)
    healthy, own = (seen[f"{run.name}, test, {s}"] for s in ("healthy", "prior"))
    assert len(healthy) == len(visits) > len(own) == sum(v.case.prior is not None for v in visits)
    recorded = {v.case.name: v.case.prior for v in visits}
    assert all(np.array_equal(c.prior, recorded[c.name]) for c in own)
    assert any(c.prior is not None and not np.array_equal(c.prior, recorded[c.name]) for c in healthy)


def test_maps_of_a_visit_may_be_empty_but_not_broken(cohort, tmp_path):
    numbers = tmp_path / "numbers.nii.gz"
    affine = experiment.read_visits(cohort, "test")[0].case.affine
    write_nifti(numbers, np.zeros((40, 40, 40), np.uint8), affine=affine)
    assert not read_map(numbers).any()
    for value in (0.5, -1, 300):
        write_nifti(numbers, np.full((40, 40, 40), value, np.float32), affine=affine)
        with pytest.raises(InputError, match="expected whole numbers from 0 to 255"):
            read_map(numbers)


def test_the_same_rows_give_the_same_bytes(cohort, tmp_path):
    done = experiments(cohort, tmp_path / "runs")
    done.do(Run(name="bce-s0"))
    for name in ("one", "two"):
        experiment.collect(cohort, tmp_path / "runs", tmp_path / name)
    assert set(pd.read_csv(tmp_path / "one" / "histories.csv").run) == {"bce-s0", "trunk"}
    for name in ("runs.csv", "visits.csv", "histories.csv", "rows.csv.gz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_runs_of_another_machine_are_added_and_a_run_made_again_takes_its_place(cohort, tmp_path):
    out = tmp_path / "out"
    for machine, names in (("one", ("bce-s0", "sse-0.2-s0")), ("two", ("bce-s0", "jvss-0.9-s0"))):
        done = experiments(cohort, tmp_path / machine)
        for name in names:
            done.do(dataclasses.replace(experiment.RUNS[name], validated=machine == "two", second_test=False))
        experiment.collect(cohort, tmp_path / machine, tmp_path / f"{machine} alone")
        experiment.collect(cohort, tmp_path / machine, out)
    runs, rows, histories = (pd.read_csv(out / n) for n in ("runs.csv", "rows.csv.gz", "histories.csv"))
    assert list(runs["run"]) == ["bce-s0", "bce-s0", "jvss-0.9-s0", "jvss-0.9-s0", "sse-0.2-s0"]
    assert set(histories["run"]) == {"bce-s0", "jvss-0.9-s0", "sse-0.2-s0", "trunk"}
    assert not histories.duplicated(["run", "step"]).any()
    for machine, names in (("one", ["sse-0.2-s0"]), ("two", ["bce-s0", "jvss-0.9-s0"])):
        alone = pd.read_csv(tmp_path / f"{machine} alone" / "rows.csv.gz")
        own, here = (t[t["run"].isin(names)].reset_index(drop=True) for t in (alone, rows))
        pd.testing.assert_frame_equal(here, own)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    experiment.collect(cohort, tmp_path / "two", out)  # nothing new: the same bytes
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}

    visits = pd.read_csv(out / "visits.csv")
    visits.assign(days=visits["days"] + 1).to_csv(out / "visits.csv", index=False)
    with pytest.raises(InputError, match="got other visits"):
        experiment.collect(cohort, tmp_path / "two", out)


def test_a_run_without_steps_scores_the_weights_that_it_starts_from(cohort, tmp_path):
    start = DeepMedic(preset("smoke", prior="none")).eval()
    done = experiments(cohort, tmp_path / "runs", start=start)
    run = Run(name="trunk-none-s11", steps=0, seed=11)
    done.do(run)
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    line = pd.read_csv(tmp_path / "out" / "runs.csv").iloc[0]
    assert (line.run, line.segments, line.train_seconds) == ("trunk-none-s11", 0, 0)
    kept = network.load(tmp_path / "runs" / run.name / "weights.safetensors").state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in start.state_dict().items())
    with pytest.raises(InputError, match="got start scratch"):
        done.do(dataclasses.replace(run, start="scratch", name="nothing"))


def test_triage_is_chosen_on_validation_and_sorts_the_test_visits(cohort, tmp_path, monkeypatch):
    names = [f"jvss-0.5-path-s{s}" for s in range(3)]
    monkeypatch.setattr(experiment, "POOLS", {"sens": tuple(names[:2]), "spec": tuple(names[2:])})
    monkeypatch.setattr(experiment, "VOTERS", tuple(names))
    done = experiments(cohort, tmp_path / "runs")
    with pytest.raises(InputError, match=f"expected run {names[0]}, scored on validation"):
        done.triage()
    for seed, name in enumerate(names):
        done.do(Run(name=name, loss="jvss", prior="path", seed=seed, validated=True))
    done.triage()
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    points = pd.read_csv(tmp_path / "out" / "operating_points.csv").set_index(["system", "tier"])
    table = pd.read_csv(tmp_path / "out" / "tiers.csv.gz")
    assert set(table.system) == set(experiment.SYSTEMS)
    assert points.loc[("ensemble", "confirmed"), "run"] == names[2]
    assert (points.loc["ensemble at 0.5", "threshold"] == 0.5).all()
    # rebuilt from the weights and the printed thresholds
    visit = done.visits("test")[1]
    ready = visit.case.normalised()
    maps = {
        n: predict_volume(network.load(tmp_path / "runs" / n / "weights.safetensors"), ready.image, prior=ready.prior,
                          mask=ready.mask, machine=CPU)
        for n in names
    }  # fmt: skip
    sens = points.loc[("ensemble", "candidate"), "run"]
    maps |= {"sens": maps[sens], "spec": maps[names[2]]}
    maps |= {"averaged": (maps[sens] + maps[names[2]]) / 2, "majority": np.median([maps[n] for n in names], 0)}
    made_maps = done._triage_maps({"sens": sens, "spec": names[2]}, experiment.SYSTEMS, "test")[1]
    assert made_maps.keys() == {"sens", "spec", "averaged", "majority"}
    for source, own in made_maps.items():
        np.testing.assert_array_equal(own[1], maps[source].astype(np.float32), err_msg=source)
    for system in experiment.SYSTEMS:
        masks = []
        for tier in ("candidate", "confirmed"):
            point = points.loc[(system, tier)]
            masks.append(maps[point.source].astype(np.float32) >= scoring.FINE[int(point.level)])
        own = table[(table.system == system) & (table.case == visit.case.name)]
        expected = scoring.tiers(visit.case.label, *masks, numbers=visit.numbers)
        assert own.tier.tolist() == expected.tier.tolist()
        assert own.volume_mm3.tolist() == expected.volume_mm3.tolist()


def test_the_triage_of_the_longest_trainings_stands_beside_the_other(cohort, tmp_path, monkeypatch):
    """Its own networks and thresholds, in the same tables; collected alone it leaves the other's rows as they are."""
    names = [f"jvss-0.5-path-s{s}" for s in range(3)]
    monkeypatch.setattr(experiment, "POOLS", {"sens": tuple(names[:2]), "spec": tuple(names[2:])})
    monkeypatch.setattr(experiment, "VOTERS", tuple(names))
    monkeypatch.setattr(experiment, "LONG_POOLS", {"sens": (names[2],), "spec": (names[0],)})
    done = experiments(cohort, tmp_path / "runs")
    with pytest.raises(InputError, match=f"expected the weights of run {names[0]}"):
        done.triage("triage-long")
    for seed, name in enumerate(names):
        done.do(Run(name=name, loss="jvss", prior="path", seed=seed, validated=True))
    runs = [Run(name=name, loss="jvss", prior="path", seed=seed, validated=True) for seed, name in enumerate(names)]
    monkeypatch.setitem(experiment.SETS, "triage", runs)
    monkeypatch.setitem(experiment.SETS, "triage-long", runs)
    experiment.main(["triage-long", "triage"], done)
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    tables = {n: (tmp_path / "out" / n).read_bytes() for n in ("tiers.csv.gz", "operating_points.csv")}
    points = pd.read_csv(tmp_path / "out" / "operating_points.csv")
    assert list(dict.fromkeys(points["system"])) == [*experiment.SYSTEMS, *experiment.LONG_SYSTEMS]
    run = points.set_index(["system", "tier"])["run"]
    assert run["ensemble, 300,000 segments"].to_dict() == {"candidate": names[2], "confirmed": names[0]}
    assert run["two thresholds on M_sens, 300,000 segments"].tolist() == [names[2]] * 2
    shutil.rmtree(tmp_path / "runs" / "triage")
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    assert all((tmp_path / "out" / n).read_bytes() == content for n, content in tables.items())


def test_candidates_are_looked_at_again_on_patients_of_another_training(cohort, tmp_path, monkeypatch):
    run = Run(name="jvss-0.5-s0", loss="jvss")
    monkeypatch.setattr(experiment, "SECOND_LOOK", run.name)
    monkeypatch.setitem(experiment.SETS, "second-look", [run])
    done = experiments(cohort, tmp_path / "runs")
    with pytest.raises(InputError, match="second-look: expected the weights of run jvss-0.5-s0"):
        done.second_look()
    experiment.main(["second-look"], done)
    experiment.collect(cohort, tmp_path / "runs", tmp_path / "out")
    r = results.Results(tmp_path / "out")
    fresh = {f.name for f in read_cohort(tmp_path / "runs" / "fresh") if f.prior is not None}
    tested = {f.name for f in read_cohort(cohort, split="test") if f.prior is not None}
    own = r.candidates.groupby("split")["case"].agg(set)
    assert own["train"] <= fresh and own["test"] <= tested and own["test"]
    net = network.load(tmp_path / "runs" / run.name / "weights.safetensors")
    visits = [v for v in done.visits("test") if v.case.name in tested]
    again = second_look.candidates(net, visits, CPU)
    kept = r.candidates.query("split == 'test'").drop(columns="split").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, again, atol=1e-3, check_dtype=False)


def test_thresholds_of_the_triage_keep_to_their_own_budgets(cohort, tmp_path, monkeypatch):
    done = experiments(cohort, tmp_path / "runs")
    visit = done.visits("validation")[0]
    label = np.zeros(visit.case.label.shape, np.uint8)
    label[30, 30, 30] = label[34, 30, 30] = 1
    visit = dataclasses.replace(visit, case=dataclasses.replace(visit.case, label=label))
    p = np.zeros(label.shape, np.float32)
    p[30, 30, 30], p[34, 30, 30] = 0.995, 0.6  # one sure lesion, one less sure than 10 false voxels,
    p[2:31:3, 5, 5] = 0.9
    p[2:8:3, 15, 5] = 0.3  # and two false ones below it
    maps = dict.fromkeys(("sens", "spec", "averaged", "majority"), [p])
    monkeypatch.setattr(done, "_triage_maps", lambda *given: ([visit], maps) if given[-1] == "validation" else None)
    points = done._operating_points({"sens": "a", "spec": "b"}, experiment.SYSTEMS).set_index(["system", "tier"])
    for system, (*_, chooses) in experiment.SYSTEMS.items():
        both = points.loc[system]
        assert both.validation_fp.tolist() == ([10, 0] if chooses else [10, 10])
        assert both.validation_sensitivity.tolist() == ([1, 0.5] if chooses else [1, 1])
    assert points.loc[("ensemble", "confirmed"), "run"] == "b"


def test_without_a_compiler_runs_are_scored_without(monkeypatch, tmp_path):
    net = DeepMedic(preset("smoke", prior="none"))
    monkeypatch.setattr(training.shutil, "which", lambda name: None)
    assert Experiments(tmp_path, tmp_path, machine=CPU)._fast(net) is net


def test_mistakes_are_answered_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="found none that was scored"):
        experiment.collect(tmp_path, tmp_path, tmp_path / "out")
    assert training.LOSSES.keys() >= {r.loss for part in experiment.SETS.values() for r in part}


def test_a_budget_that_no_threshold_keeps_gets_the_highest_and_says_what_it_leaves(cohort, tmp_path, monkeypatch):
    done = experiments(cohort, tmp_path / "runs")
    visit = done.visits("validation")[0]
    label = np.zeros(visit.case.label.shape, np.uint8)
    label[30, 30, 30] = 1
    visit = dataclasses.replace(visit, case=dataclasses.replace(visit.case, label=label))
    p = np.zeros(label.shape, np.float32)
    p[30, 30, 30], p[5, 5, 5] = 0.9, 1.0
    maps = dict.fromkeys(("sens", "spec"), [p])
    monkeypatch.setattr(done, "_triage_maps", lambda *given: ([visit], maps))
    points = done._operating_points({"sens": "a", "spec": "b"}, {"ensemble": ("sens", "spec", True)}).set_index("tier")
    assert points.loc["confirmed", ["level", "validation_sensitivity", "validation_fp"]].tolist() == [len(scoring.FINE) - 1, 0, 1]
    assert points.loc["candidate", ["validation_sensitivity", "validation_fp"]].tolist() == [1, 1]
