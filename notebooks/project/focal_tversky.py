"""The project of notebook 02, solved: the focal Tversky loss (Abraham & Khan 2019, doi.org/10.1109/ISBI.2019.8759329).

dmplus experiment own --loss notebooks/project/focal_tversky.py --start trunk --cohort cohort/ -o runs/project \
    --collect runs/mine/experiments/quick && python -m dmplus.project runs/mine --beside notebooks/results/experiments/quick
"""

ALPHAS = (0.95, 0.8, 0.5, 0.2, 0.05)  # a training for each; large alpha: sensitivity, as for VSS and SSE
GAMMA, SMOOTH = 4 / 3, 1.0  # gamma as in the paper; SMOOTH keeps a batch without a lesion finite


def loss(prob, target, *, alpha):
    """(1 - TI)^(1/gamma), TI = (TP + s) / (TP + alpha FN + (1 - alpha) FP + s); prob and target are (B, X, Y, Z)."""
    tp = (prob * target).sum()
    fn = ((1 - prob) * target).sum()
    fp = (prob * (1 - target)).sum()
    index = (tp + SMOOTH) / (tp + alpha * fn + (1 - alpha) * fp + SMOOTH)
    return (1 - index).clamp(min=1e-6) ** (1 / GAMMA)  # at 0 the root's slope is infinite
