"""The command line: ``dmplus predict | synth | train | operate | experiment | evaluate | convert | run | doctor | info``.

Thin: each subcommand parses its options and calls one function of the library. Nothing heavy is imported before a
subcommand runs, so that ``dmplus --help`` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

EXIT_CODES = """exit codes:
  0    done
  1    it ran, but something failed (a check of doctor, a notebook's cell)
  2    input or options that cannot be used; one line says what to do
  130  interrupted with Ctrl-C; nothing half written is left behind"""

#: Subcommands that compute for long: their process is restarted once with the C library's allocator cured.
CURED = ("predict", "train", "run", "experiment", "operate")

#: Errors of the file system that say the given path cannot be used (exit code 2); others may pass, as a full disk does.
UNUSABLE_PLACE = (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError)


class UsageError(Exception):
    """A command line that cannot be understood; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers mistakes with one line and a hint instead of its usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns - 2)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, not wider than a page."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_width())


def _filled(text: str) -> str:
    """Paragraphs wrapped to the terminal."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _width()) for part in text.split("\n\n"))


# ------------------------------------------------------------------------------------------------------ the parser
def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="dmplus",
        description="Find, segment and triage brain metastases in contrast-enhanced T1 MRI (DeepMedic+, Huang et al. "
        "2022).\nResearch and teaching only: not for clinical use.",
        epilog="example:\n  dmplus predict scan.nii.gz --prior earlier.nii.gz -o out/\n\n"
        "Each command explains itself: dmplus predict --help\n\n" + EXIT_CODES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)

    def command(name: str, do: Callable[[argparse.Namespace], int], line: str, text: str, epilog: str) -> Parser:
        sub = commands.add_parser(
            name,
            help=line,
            description=_filled(text),
            epilog=f"{epilog}\n\n{EXIT_CODES}",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        sub.set_defaults(do=do, parser=sub)
        return sub

    _predict_options(
        command(
            "predict",
            _predict,
            "find and triage the lesions of one scan, or of a folder of visits",
            """Find, segment and triage the brain metastases of one contrast-enhanced T1 scan, or of every visit of a cohort
folder.

Two models read the scan: one trained for high sensitivity, one for high specificity. Their union is the
segmentation. A lesion (26-connected component) that holds a voxel of the specific model is `confirmed`, any other
is a `candidate`. With an earlier scan the models see both, and each lesion is compared with the earlier one:
new, growing (volume ratio from 1.25), stable, shrinking (up to 0.8); `unknown` without one.

The scan: NIfTI, any orientation, voxel edges of 0.5 to 2 mm, any number type. It is taken to 1 mm along its own
axes and the results are taken back to its own grid. Without --mask it must be skull-stripped (exactly 0 outside
the brain); a head with skull is refused: strip it, for example with HD-BET or SynthStrip, or pass the mask.""",
            """example:
  dmplus predict scan.nii.gz --prior earlier.nii.gz --mask brain.nii.gz -o out/
  dmplus predict cohort/ -o out/

what comes out, in the folder given with -o (as a whole or not at all);
all maps lie on the scan's own grid:
  sens_probability.nii.gz  probability of the sensitive model
  spec_probability.nii.gz  probability of the specific model
  segmentation.nii.gz      the union of both, 0 or 1
  tiers.nii.gz             0 background, 1 candidate, 2 confirmed
  lesions.nii.gz           the lesion's number in lesions.csv
  earlier_lesions.nii.gz   the lesions of the earlier scan, if there is one
  lesions.csv              tier, volume (mm3, counted on the scan's grid),
                           centre (mm in the scanner's frame: x to the right of
                           the patient, y to the front, z up), peak probability,
                           stratum (below or from 0.1 cm3), and the change
                           since the earlier scan (measured at 1 mm)
  gone.csv                 lesions of the earlier scan that are no more
  triage.png               the first 30 lesions in three planes, the earlier
                           scan beside them
  run.json                 versions, hashes of weights and files, device,
                           seconds, thresholds, counts

of a cohort folder (with cases.csv: name,patient,visit,days,split,image,prior,
label,mask; labels are not read) a folder like this for every visit, and beside
them, over all visits:
  lesions.csv              every lesion, with case, patient, visit and days
  gone.csv                 lesions of the earlier scans that are no more
  visits.csv               counts of each visit, or why it could not be used
Started again with the same folder it goes on where it stopped.

A scan of 240 x 240 x 155 voxels takes one to three minutes on two cores.""",
        )
    )
    _synth_options(
        command(
            "synth",
            _synth,
            "make a cohort of synthetic patients",
            """Make synthetic longitudinal patients: contrast-enhanced T1 volumes with vessels, sinuses, persistent
look-alikes and metastases over several visits. The same seed gives the same bytes; a run that was stopped goes on
where it stopped.""",
            """example:
  dmplus synth -o cohort/ --cohort quick patients=20 seed=1

what comes out:
  cases.csv        name,patient,visit,days,split,image,prior,label,mask;
                   paths are relative to the folder
  *_image.nii.gz   a visit; *_prior, *_label and *_mask lie beside it

The patients do not exist: call every result on them synthetic.""",
        )
    )
    _train_options(
        command(
            "train",
            _train,
            "train a network on a cohort folder",
            """Train DeepMedic+ (or DeepMedic) on the split `train` of a cohort folder and validate it on the split
`validation`. Progress and the time left are shown. Started again with the same output folder, a run that was
stopped goes on and ends with the same weights.""",
            """example:
  dmplus train cohort/ -o runs/sens/ --preset quick alpha=0.995 steps=2000

what comes out, in the folder given with -o:
  config.json, versions.json  everything the run used
  history.csv                 one row per validation: losses, sensitivity, precision
  checkpoint.safetensors      to go on from
  weights.safetensors         for `dmplus predict --sens`; `dmplus info` shows what is inside
  result.json                 the last row in short""",
        )
    )
    _experiment_options(
        command(
            "experiment",
            _experiment,
            "run the paper's experiments on a cohort",
            """Train and score the runs of one or more sets of the paper's experiments: alpha (Table 1, upper part), weights
and segments (section IV), sse (Figure 6), prior (Table 1, lower part, with controls), triage (the ensemble and its
rivals), unet (Table 2, needs dmplus[experiments]), length (1,000 to 300,000 segments: hours), prior-late and triage-long
(the earlier scan, and the ensemble, after the longest trainings), second-look (what the earlier scan tells of the longest
training's candidates), control (permuted labels), scratch; and, for whole brains on one GPU, whole (the quick network) and
paper (the paper's), which `all` leaves out.
Everything is resumable: started again with the same folder, what is done is not done again.""",
            """example:
  dmplus experiment alpha sse --cohort cohort/ -o runs/experiments/
  dmplus experiment --list

what comes out, in the folder given with -o:
  <run>/               a training, as of `dmplus train`
  <run>/rows.*.csv.gz  one row per lesion and per false positive
with --collect FOLDER, after the runs:
  runs.csv, visits.csv, rows.csv.gz    everything joined, for tables and curves
  tiers.csv.gz, operating_points.csv   the triage of the test visits (triage, triage-long)
  candidates.csv.gz                    what second-look measured at every candidate
`make results` computes tables and claims from what lies in notebooks/results/experiments/<profile>/.""",
        )
    )
    _evaluate_options(
        command(
            "evaluate",
            _evaluate,
            "count found, missed and false lesions over a cohort",
            """Evaluate a cohort folder lesion by lesion: sensitivity, precision (true groups over all groups) and
precision_paper (found lesions over found lesions and false groups), false positives per volume, mean Dice of the found
lesions (mdsc), each with a 95 % interval from resampling patients, in all and below / from 0.1 cm3.

Either two models are run on every case (the shipped ones, or --sens and --spec) and evaluated singly and as their
union, or existing predictions are read from a folder (--predictions: what dmplus predict made of the cohort, or for
each case <name>.nii.gz, a 0/1 mask or a probability map on the grid of its image).""",
            """example:
  dmplus evaluate cohort/ --split test -o evaluation/

what comes out, in the folder given with -o:
  lesions.csv   one row per reference lesion and per false positive of each model
  summary.csv   the numbers with their intervals, for each model and stratum
  run.json      matching rule, threshold, versions, weights""",
        )
    )
    _operate_options(
        command(
            "operate",
            _operate,
            "choose the threshold of a network for a budget of false positives",
            """Choose, on the split `validation` of a cohort folder, the threshold at which a network finds most metastases
within a budget of false positives per volume, and write the network with that threshold at 0.5, where `dmplus predict`
and `evaluate` cut. Of several weights (other alphas) the one that finds most is taken. The test is not looked at.""",
            """example:
  dmplus operate runs/a/weights.safetensors runs/b/weights.safetensors --cohort cohort/ --budget 10 -o sens.safetensors
  dmplus operate runs/c/weights.safetensors --cohort cohort/ --budget 0.5 -o spec.safetensors
  dmplus predict scan.nii.gz --sens sens.safetensors --spec spec.safetensors -o out/

what comes out: the weights, which say of themselves (`dmplus info`) what was
chosen, among what, the threshold, the budget, and sensitivity and false
positives per volume on validation""",
        )
    )
    _convert_options(
        command(
            "convert",
            _convert,
            "make a weights file of a TensorFlow checkpoint",
            """Read a checkpoint of the authors' program (DeepMedic or DeepMedic+, written by TensorFlow) without
TensorFlow and write the same network as a weights file of dmplus. Every checksum in the checkpoint is checked.

Number and widths of the layers are read off the checkpoint, and whether there is a path for the prior: that is the case
when there is one path more than the current scan's and one for each low-resolution factor. What its variables cannot
tell is asked for by options; their defaults are those of the released DeepMedic+.""",
            """example:
  dmplus convert deepMedicPlus.model.ckpt -o weights/authors.safetensors
  dmplus predict scan.nii.gz --sens weights/authors.safetensors -o out/

what comes out, both or none:
  authors.safetensors  weights for `dmplus predict`, `evaluate` and `train --init`
  authors.json         configuration, files it came from, number of variables,
                       what the checkpoint could not tell, versions

`dmplus predict --sens deepMedicPlus.model.ckpt` reads a checkpoint of the
released configuration directly.""",
        )
    )
    _run_options(
        command(
            "run",
            _run,
            "run one notebook of the course with parameters",
            """Run a notebook of the course from top to bottom with other parameters. Names and types are checked
against the notebook's parameter cell before anything starts; an unknown name is an error, not a default.""",
            """example:
  dmplus run 00_start_here profile=smoke seed=3

  dmplus run --list                every notebook with its question and minutes
  dmplus run 00_start_here --list  its parameters with type, default and meaning

Lists are written as [1, 2]; true and false are the only words for bool.

what comes out: runs/<notebook>/<profile>/ with the executed notebook and
results.json; after a failure the partial notebook and the error.""",
        )
    )
    _doctor_options(
        command(
            "doctor",
            _doctor,
            "check this machine and installation",
            """Check what dmplus needs: Python, packages, device and precision, allocator, memory, disk, shipped
weights. Ends with the minutes that `dmplus predict` and `make course` are expected to take here.""",
            """example:
  dmplus doctor

what comes out: a table on the screen, one line per check, OK or FAIL.""",
        )
    )
    info = command(
        "info",
        _info,
        "say what a weights file holds",
        "Print what a weights file says of itself, as JSON: network, parameters, training, hash.",
        "example:\n  dmplus info sens\n\nwhat comes out: JSON on the screen.",
    )
    info.add_argument(
        "weights", metavar="WEIGHTS", help="a .safetensors file, a TensorFlow checkpoint, or sens, spec (shipped)"
    )
    return top


def _version() -> str:
    from dmplus import __version__

    return f"dmplus {__version__}"


def _machine_options(sub: Parser) -> None:
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
    sub.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="default: auto, by a probe of a fraction of a second",
    )


def _model_options(sub: Parser) -> None:
    sub.add_argument(
        "--sens",
        metavar="W",
        help="weights of the sensitive model: a file, a shipped name, or a TensorFlow checkpoint of the released "
        "DeepMedic+ (its .index); default: the shipped `sens`. Giving only one of --sens and --spec runs that model "
        "alone: lesions are found but not sorted into tiers",
    )
    sub.add_argument("--spec", metavar="W", help="weights of the specific model; default: the shipped `spec`")


def _out_option(sub: Parser, text: str = "new folder for the results; an empty one is used, too") -> None:
    sub.add_argument("-o", "--out", required=True, metavar="FOLDER", help=text)


def _predict_options(sub: Parser) -> None:
    sub.add_argument("scan", metavar="SCAN", help="contrast-enhanced T1, .nii or .nii.gz; or a cohort folder with cases.csv")
    _out_option(sub)
    sub.add_argument("--split", metavar="NAME", help="of a cohort folder: train, validation or test; default: all visits")
    sub.add_argument(
        "--prior",
        metavar="FILE",
        help="an earlier scan, registered and resampled to SCAN's grid; where it has no data (0) changes are unknown",
    )
    sub.add_argument("--mask", metavar="FILE", help="brain mask (0/1) on SCAN's grid; default: SCAN's non-zero region")
    _model_options(sub)
    sub.add_argument(
        "--tiling",
        default="auto",
        choices=("auto", "aligned", "released"),
        help="how the volume is cut: `released` as the authors' program does; `aligned` gives the same map for every "
        "tile size (but of a unet); default: released for weights of the authors' program, else aligned",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier result in FOLDER")
    _machine_options(sub)


def _synth_options(sub: Parser) -> None:
    _out_option(sub, "new or empty folder; an unfinished cohort in it is continued")
    sub.add_argument(
        "--cohort", default="quick", metavar="NAME", help="smoke, quick or gpu (240 x 240 x 155); default: quick"
    )
    sub.add_argument(
        "settings", nargs="*", metavar="name=value", help="any field of the cohort, such as patients=20 seed=1"
    )


def _train_options(sub: Parser) -> None:
    sub.add_argument(
        "cohort",
        metavar="COHORT",
        help="cohort folder with cases.csv, as `dmplus synth` makes it; its columns are told in data_cards/uker_private.md",
    )
    _out_option(sub, "new or empty folder; an unfinished run in it is continued")
    sub.add_argument(
        "--preset",
        choices=("quick", "paper", "smoke"),
        help="the recipe that name=value changes: quick (two cores, the default), paper (one GPU: the paper's network "
        "and schedule) or smoke (seconds, for trying the plumbing)",
    )
    sub.add_argument(
        "--prior", default="path", choices=("path", "channel", "none"), help="how the network sees it; default: path"
    )
    sub.add_argument("--config", metavar="JSON", help="a run's config.json instead of a recipe")
    sub.add_argument("--init", metavar="W", help="start from these weights instead of random ones")
    _machine_options(sub)
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="name=value",
        help="any field of the configuration: alpha=0.95 steps=200 loss=bce "
        "seed=1 sampling.lesion_share=0.5; config.json of a run names them all",
    )


def _experiment_options(sub: Parser) -> None:
    sub.add_argument("sets", nargs="*", metavar="SET", help="sets of runs, single runs, or `all`; --list names them")
    sub.add_argument("--list", action="store_true", help="name every set and its runs, and stop")
    sub.add_argument("--cohort", metavar="COHORT", help="cohort folder, as `dmplus synth` makes it")
    sub.add_argument("--loss", metavar="FILE", help="a Python file with your own loss, for the set `own`")
    sub.add_argument("--start", metavar="W", help="weights (a file or a shipped name) instead of training the trunk")
    sub.add_argument(
        "--second-test", metavar="COHORT", help="another cohort, whose test visits the main runs are scored on, too"
    )
    sub.add_argument("-o", "--out", metavar="FOLDER", help="folder for all runs; an earlier one is continued")
    sub.add_argument("--collect", metavar="FOLDER", help="then join everything scored into tables there")
    _machine_options(sub)


def _evaluate_options(sub: Parser) -> None:
    sub.add_argument("cohort", metavar="COHORT", help="cohort folder with cases.csv and labels")
    _out_option(sub)
    sub.add_argument("--split", metavar="NAME", help="train, validation or test; default: all cases")
    sub.add_argument("--predictions", metavar="FOLDER", help="evaluate these files instead of running models")
    _model_options(sub)
    sub.add_argument("--threshold", type=float, default=0.5, help="a voxel is inside from this on; default: 0.5")
    sub.add_argument(
        "--rule",
        default="any_overlap",
        metavar="NAME",
        help="any_overlap (one shared voxel), iou, dice or one_to_one; default: any_overlap",
    )
    sub.add_argument("--min-overlap", type=float, metavar="X", help="least IoU or Dice for the other rules")
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier result in FOLDER")
    _machine_options(sub)


def _operate_options(sub: Parser) -> None:
    sub.add_argument("weights", metavar="W", nargs="+", help="weights files, or names of shipped ones")
    sub.add_argument("--cohort", required=True, metavar="COHORT", help="cohort folder with labelled visits of split validation")
    sub.add_argument("--budget", required=True, type=float, metavar="N", help="false positives per volume: 10, or 0.5, say")
    sub.add_argument("-o", "--out", required=True, metavar="FILE", help="weights to write, .safetensors")
    sub.add_argument("--overwrite", action="store_true", help="replace FILE")
    _machine_options(sub)


def _convert_options(sub: Parser) -> None:
    sub.add_argument("checkpoint", metavar="PREFIX", help="path of the checkpoint without .index (or with it)")
    sub.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="weights to write, .safetensors; .json beside it"
    )
    sub.add_argument(
        "--residual-layers", nargs="*", type=int, metavar="N", default=(4, 6, 8),
        help="layers of a path, counted from 1, that the input of the layer before is added to; default: 4 6 8",
    )  # fmt: skip
    sub.add_argument(
        "--low-factors", nargs="*", type=int, metavar="N", default=(3, 5),
        help="how many times coarser each low-resolution path is, in their order; default: 3 5",
    )  # fmt: skip
    sub.add_argument(
        "--residual-fully-connected", nargs="*", type=int, metavar="N", default=(2,),
        help="as --residual-layers, among the layers after the paths; default: 2",
    )  # fmt: skip
    sub.add_argument(
        "--dropout", nargs="*", type=float, metavar="RATE", default=(0.0, 0.5, 0.5),
        help="dropout rates of these layers and the classifier: the released program scales by them at inference, too; "
        "default: 0 0.5 0.5",
    )  # fmt: skip
    sub.add_argument(
        "--dropout-scaling", choices=("released", "inverted"), default="released",
        help="inverted: the program scaled in training, not at inference; default: released",
    )  # fmt: skip
    sub.add_argument("--overwrite", action="store_true", help="replace FILE and the .json beside it")


def _run_options(sub: Parser) -> None:
    sub.add_argument("notebook", nargs="?", metavar="NOTEBOOK", help="name or number, such as 00_start_here or 00")
    sub.add_argument("settings", nargs="*", metavar="name=value", help="parameters of the notebook")
    sub.add_argument("--list", action="store_true", help="list the notebooks, or NOTEBOOK's parameters, and stop")
    sub.add_argument("-o", "--out", default="runs", metavar="FOLDER", help="default: runs")
    sub.add_argument("-f", "--file", metavar="YAML", help="parameters from a YAML file; name=value wins over it")


def _doctor_options(sub: Parser) -> None:
    sub.add_argument("--no-probe", action="store_true", help="leave out the timing (a few seconds)")


# ---------------------------------------------------------------------------------------------------- the commands
def _predict(args: argparse.Namespace) -> int:
    from dmplus.predict import predict, summary
    from dmplus.runtime import InputError

    if os.path.isdir(args.scan):
        return _predict_folder(args)
    if args.split is not None:
        raise InputError(f"scan {args.scan}: expected a cohort folder with --split; got one scan; drop --split")
    found, report = predict(
        args.scan,
        args.out,
        prior=args.prior,
        mask=args.mask,
        sens=args.sens,
        spec=args.spec,
        tiling=args.tiling,
        overwrite=args.overwrite,
        device=args.device,
        precision=args.precision,
    )
    print(summary(found, report, args.out))
    return 0


def _predict_folder(args: argparse.Namespace) -> int:
    import time

    from dmplus.runtime import InputError
    from dmplus.worklist import folder_summary, predict_folder

    if given := [f"--{name}" for name in ("prior", "mask") if getattr(args, name) is not None]:
        raise InputError(f"a cohort folder names its priors and masks in cases.csv; got {' and '.join(given)}; drop them")
    started = time.monotonic()
    visits = predict_folder(
        args.scan, args.out, split=args.split, sens=args.sens, spec=args.spec, tiling=args.tiling, overwrite=args.overwrite,
        device=args.device, precision=args.precision,
    )  # fmt: skip
    print(folder_summary(visits, args.out, started))
    return int((visits["error"] != "").any())


def _synth(args: argparse.Namespace) -> int:
    from dmplus import synthetic

    config = _configured(_chosen(synthetic.COHORTS, args.cohort, "cohort"), args.settings)
    synthetic.generate(config, args.out, progress=True, processes=os.cpu_count() or 1)
    return 0


def _train(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from dmplus import network, runtime, training
    from dmplus.volume import Case, CaseFiles, read_cohort

    given = training.run_folder(args.out) / "config.json"  # asked for before anything slow
    if args.config or (args.preset is None and not args.settings and given.is_file()):
        source = Path(args.config or given)
        try:
            config = training.TrainConfig.from_json(json.loads(source.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, runtime.InputError):
                raise
            came = error.strerror if isinstance(error, OSError) else "something else"
            raise runtime.InputError(
                f"{runtime.named(source)}: expected a training configuration as JSON; got {came}; pass the config.json of "
                "a run"
            ) from None
    else:
        config = _preset(args.preset or "quick", args.prior)
    config = _configured(config, args.settings)
    machine = runtime.machine(args.device, args.precision)
    init = None if args.init is None else network.load(args.init)
    files = read_cohort(args.cohort)
    splits = {name: [f for f in files if f.split == name] for name in ("train", "validation")}
    unlabelled = [f.name for split in splits.values() for f in split if f.label is None]
    if not splits["train"] or unlabelled:
        came = f"none for {unlabelled[0]}" if unlabelled else "no case of split train"
        raise runtime.InputError(
            f"cohort {runtime.named(args.cohort)}: expected labelled cases of split train (and validation); got {came}; "
            "correct cases.csv"
        )
    shown = runtime.Progress(sum(map(len, splits.values())), "reading")

    def read(split: str) -> Iterator[Case]:
        for case in runtime.ahead(CaseFiles.load, splits[split]):
            yield case
            shown.step()

    volumes = training.prepared(read("train"), machine)  # as they are read, so that each is in memory once
    validation = list(read("validation"))
    training.train(config, volumes, validation, args.out, init=init, machine=machine)
    print(f"Weights in {Path(args.out) / 'weights.safetensors'}; look inside with `dmplus info`.")
    return 0


def _experiment(args: argparse.Namespace) -> int:
    from dmplus import experiment, network, runtime, training

    if args.list:
        for name, runs in experiment.SETS.items():
            print(f"{name}: " + textwrap.fill(", ".join(r.name for r in runs), _width(), subsequent_indent="  "))
        return 0
    if not args.cohort or not args.out or not (args.sets or args.collect):
        raise UsageError("expected a set, --cohort and --out; see `dmplus experiment --help`")
    unknown = [s for s in args.sets if s not in {*experiment.SETS, *experiment.RUNS, "all", "own"}]
    if unknown:
        raise runtime.InputError(
            f"expected a set of {', '.join(experiment.SETS)}, own, all or a run{_near(unknown[0], experiment.SETS)}; got "
            f"{unknown[0]!r}"
        )
    if ("own" in args.sets) != (args.loss is not None):
        raise UsageError("expected the set own together with --loss FILE; see `dmplus experiment --help`")
    own = experiment.own_runs(*training.add_loss(args.loss)) if args.loss else []
    everything = [*(s for s in experiment.SETS if s not in experiment.ON_GPU), *(["own"] if own else [])]
    names = everything if "all" in args.sets else args.sets
    out = runtime.writable_folder(args.out)
    if names:
        machine = runtime.machine(args.device, args.precision)
        start = network.load(args.start) if args.start else None
        experiments = experiment.Experiments(
            args.cohort, out, machine=machine, second_test=args.second_test, start=start
        )
        experiment.main(names, experiments, own=own)
    if args.collect:
        experiment.collect(args.cohort, out, args.collect, second_test=args.second_test)
    return 0


def _preset(name: str, prior: str) -> Any:
    import dataclasses

    from dmplus import network, training

    if name == "paper":
        return training.TrainConfig(network=network.preset("paper", prior=prior))
    config = training.quick_config(prior)
    if name == "quick":
        return config
    return dataclasses.replace(config, network=network.preset("smoke", prior=prior), steps=20, batch=4, warmup=0)


def _evaluate(args: argparse.Namespace) -> int:
    from dmplus.predict import evaluate_folder, evaluation_text

    table = evaluate_folder(
        args.cohort,
        args.out,
        split=args.split,
        predictions=args.predictions,
        sens=args.sens,
        spec=args.spec,
        threshold=args.threshold,
        rule=args.rule,
        min_overlap=args.min_overlap,
        overwrite=args.overwrite,
        device=args.device,
        precision=args.precision,
    )
    print(evaluation_text(table))
    return 0


def _operate(args: argparse.Namespace) -> int:
    from dmplus.operating import operate
    from dmplus.triage import probability_words

    done = operate(
        args.weights, args.cohort, args.out, budget=args.budget, overwrite=args.overwrite, device=args.device,
        precision=args.precision,
    )  # fmt: skip
    at, among = done["validation"], len(done["chosen_among"])
    print(
        f"{done['chosen']}{f' (of {among} networks)' if among > 1 else ''}: {at['sensitivity']:.0%} found with "
        f"{at['fp_per_volume']:.2f} false positives a volume on {at['volumes']} validation visits, from "
        f"{probability_words(done['threshold_folded_in'])} on.\nWritten to {args.out}: 0.5 is that threshold there."
    )
    return 0


def _convert(args: argparse.Namespace) -> int:
    from pathlib import Path

    from dmplus.tf_checkpoint import convert

    done = convert(
        args.checkpoint,
        args.out,
        overwrite=args.overwrite,
        residual_layers=args.residual_layers,
        low_factors=args.low_factors,
        residual_fully_connected=args.residual_fully_connected,
        dropout=args.dropout,
        dropout_scaling=args.dropout_scaling,
    )
    prior = "with" if done["network"].prior == "path" else "without"
    print(
        f"{done['variables']} variables read, {done['parameters']:,} parameters, {prior} a path for the prior.\n"
        f"Weights in {args.out}, what they are in {Path(args.out).with_suffix('.json')}."
    )
    return 0


def _run(args: argparse.Namespace) -> int:
    from dmplus import course, notebooks
    from dmplus.runtime import InputError, writable_folder

    if args.list:
        if args.notebook is None:
            print(notebooks.notebook_table())
        else:
            path = notebooks.find_notebook(args.notebook)
            found = notebooks.parameters_of(notebooks.read_notebook(path), name=path.stem)
            print(f"parameters of {path.stem}\n{notebooks.parameter_table(found)}")
        return 0
    if args.notebook is None:
        raise InputError("expected a notebook, such as 00_start_here; got none; `dmplus run --list` names them all")
    writable_folder(args.out)
    try:
        done = course.run_notebook(args.notebook, args.settings, file=args.file, out=args.out)
    except course.NotebookFailed as error:
        print(f"dmplus: error: {error}", file=sys.stderr)
        return 1
    print(f"Executed notebook and results.json in {os.path.relpath(done.notebook.parent)}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from dmplus.doctor import checks, table

    rows = checks(probe=not args.no_probe)
    print(table(rows))
    return 0 if all(row.ok for row in rows) else 1


def _info(args: argparse.Namespace) -> int:
    import json

    from dmplus.predict import describe_weights

    print(json.dumps(describe_weights(args.weights), indent=2))
    return 0


# ------------------------------------------------------------------------------------------------- name=value settings
def _chosen(options: dict[str, Any], name: str, what: str) -> Any:
    from dmplus.runtime import InputError

    if name not in options:
        raise InputError(f"expected {what} {', '.join(options)}; got {name}; choose one of those")
    return options[name]


def _configured(config: Any, settings: Sequence[str]) -> Any:
    """A frozen configuration with ``name=value`` settings, each cast by the type of the field's present value."""
    import dataclasses

    from dmplus.runtime import InputError

    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"expected name=value; got {setting!r}; write for example seed=1")
        inner = None
        name, dot, rest = name.partition(".")
        if dot and dataclasses.is_dataclass(fields.get(name)):  # sampling.rotate=0.2
            inner = _configured(fields[name], [f"{rest}={text}"])
        if name not in fields:
            kind = type(config)
            raise InputError(
                f"expected a field of {kind.__name__}{_near(name, fields)}; got {name!r}; "
                f"`python -m pydoc {kind.__module__}.{kind.__name__}` lists them all"
            )
        changes[name] = inner if inner is not None else _cast(name, text, fields[name])
        fields[name] = changes[name]
    return dataclasses.replace(config, **changes)


def _cast(name: str, text: str, like: Any) -> Any:
    import json

    from dmplus.runtime import InputError, _tuples

    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text]
        if isinstance(like, (int, float, str)):
            return type(like)(text)
        value = _tuples(json.loads(text.replace("(", "[").replace(")", "]") if isinstance(like, tuple) else text))
        if not isinstance(value, type(like)):
            raise ValueError(text)
        return value
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(like, bool) else type(like).__name__
        raise InputError(f"{name}: expected {kind}, such as {like!r}; got {text!r}; correct the value") from None


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# ------------------------------------------------------------------------------------------------------------- main
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. ``argv=None``: this process's own arguments."""
    console = argv is None
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv))
        if console:
            _prepare(args.command)
        code = args.do(args)
        sys.stdout.flush()  # here, where a reader that has gone away can still be answered
        return code
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except UsageError as error:
        return _refuse(str(error))
    except ValueError as error:
        from dmplus.runtime import InputError

        if isinstance(error, InputError):
            return _refuse(str(error))
        raise
    except BrokenPipeError:  # `dmplus run --list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full, a folder that may not be written
        what = f"{error.filename}: " if error.filename else ""
        _refuse(f"{what}{error.strerror or error}; choose another place or make room")
        return 2 if isinstance(error, UNUSABLE_PLACE) else 1
    except FloatingPointError as error:  # a training that diverged
        _refuse(str(error))
        return 1
    except MemoryError:
        _refuse("expected enough memory; it ran out; close other programs or use smaller volumes")
        return 1


def _refuse(message: str) -> int:
    print("dmplus: error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _parse(argv: list[str]) -> argparse.Namespace:
    top = parser()
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction)).choices
    first = next((a for a in argv if not a.startswith("-")), None)
    if first is not None and first not in commands and not argv[0].startswith("-"):
        known = ", ".join(commands)
        raise UsageError(f"expected a command ({known}); got {first}{_near(first, commands)}; see `dmplus --help`")
    args, rest = top.parse_known_args(argv)
    if hasattr(args, "settings"):  # argparse gives up on name=value that stand behind an option
        args.settings += [a for a in rest if not a.startswith("-")]
        rest = [a for a in rest if a.startswith("-")]
    if rest:
        sub = getattr(args, "parser", top)
        if not rest[0].startswith("-"):
            known = [str(a.metavar) for a in sub._positionals._group_actions]
            wanted = f"one {known[0]}" if known else "options only"
            hint = "; did you mean --prior?" if args.command == "predict" else ""
            raise UsageError(f"expected {wanted}; got {rest[0]} as well{hint}; see `{sub.prog} --help`")
        option = rest[0].partition("=")[0]
        known = sub._option_string_actions
        raise UsageError(f"unknown option {option}{_near(option, known)}; see `{sub.prog} --help`")
    if args.command is None:
        raise UsageError(f"expected a command ({', '.join(commands)}); got none; see `dmplus --help`")
    return args


def _prepare(command: str) -> None:
    """What only a process of its own may do: cure the allocator and end cleanly when asked to terminate."""
    if command in CURED:
        from dmplus.runtime import cure_allocator

        cure_allocator()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


if __name__ == "__main__":
    sys.exit(main())
