"""Train runs of the experiments anew and count wrong certainties at every step: background voxels whose float32 probability is 1.

python notebooks/results/experiments/lost/count.py COHORT FOLDER RUN [RUN ...]
"""

import sys
from pathlib import Path

from dmplus import experiment, network, training
from dmplus.runtime import Machine
from dmplus.volume import read_cohort

CERTAIN = 16.6  # log-odds from which a float32 probability rounds to 1

cohort, folder, *names = sys.argv[1:]
machine = Machine("cpu", "bfloat16", "as the experiments")
volumes = training.prepared((files.load() for files in read_cohort(cohort, split="train")), machine)
cost, highest, certain = training.cost, [], []


def watched(logits, target, config):
    background = logits.detach()[target == 0]
    highest.append(float(background.max()))
    certain.append(int((background > CERTAIN).sum()))
    return cost(logits, target, config)


training.cost = watched
for name in names:
    highest.clear()
    certain.clear()
    config = experiment.config_of(experiment.RUNS[name])
    training.train(config, volumes, [], Path(folder) / name, init=network.load("trunk"), machine=machine)
    print(
        f"{name}: {sum(certain)} wrong certainties in {len(certain)} steps; highest background log-odds {max(highest):.1f}"
    )
