"""Choose a model and its threshold on validation, then look at the test once: a widget, and the rule it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dmplus import evidence, figures, results
from dmplus.results import Results, of, pooled
from dmplus.runtime import InputError
from dmplus.scoring import LEVELS

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure

_LEFT, _RIGHT = 0.1, 60.0  #: false positives per volume that are drawn


class Chooser:
    """Validation curves of several runs, one run and threshold chosen on them, and one look at the test.

    names: runs that were scored on validation and test. budget: false positives per volume drawn as the limit. The test
    is shown by :meth:`test`, which works once: who looks twice has tuned on it.
    """

    def __init__(self, r: Results, names: Sequence[str], budget: float) -> None:
        self.r, self.names, self.budget = r, list(names), budget
        self.sums = {n: r.group([n], split="validation").sum(1).mean(0) for n in self.names}
        self.name, self.level, self.tested = self.names[0], len(LEVELS) // 2, ""

    def describe(self) -> str:
        """The chosen point on validation, and what the test said if it was asked."""
        c = self.sums[self.name]
        fp = float(results.fp_per_volume(c, self.level))
        words = "more than the rows hold" if np.isnan(fp) else f"{fp:.1f}"
        fits = (
            "" if np.isnan(fp) else (", within" if fp <= self.budget else ", over") + f" the budget of {self.budget:g}"
        )
        found = float(results.sensitivity(c, self.level))
        text = (
            f"{self.name} from {LEVELS[self.level]:.4f} on: on validation {found:.0%} found, {words} false positives a "
            f"volume{fits}"
        )
        return f"{text}. {self.tested}" if self.tested else f"{text}."

    def test(self) -> str:
        """What the chosen point does on test, once; afterwards nothing can be chosen any more."""
        if self.tested:
            raise InputError(
                "chooser: expected one look at the test; it was taken; make a new chooser to cheat knowingly"
            )
        both = pooled(self.r.group([self.name]))
        found = of(lambda c: results.sensitivity(c, self.level), both)
        fp = of(lambda c: results.fp_per_volume(c, self.level), both)
        where = f"at {evidence.in_words(fp, 1)} false positives a volume"
        self.tested = f"On test: {evidence.in_words(found)} of the metastases {where}"
        return self.tested

    def draw(self, *, chosen: bool = True) -> Figure:
        """Sensitivity against false positives on validation, the chosen point marked (not without ``chosen``)."""
        figure, axes = figures.new_figure(6.0, 3.2)
        axis = axes[0, 0]
        for number, name in enumerate(self.names):
            y, _, x = results.along(self.sums[name])
            own = chosen and name == self.name
            axis.plot(x, y, **evidence.line_look(number), lw=2.6 if own else 1.0, label=name, zorder=2 + own)
            if own:
                at = float(np.clip(np.nan_to_num(x[self.level], nan=_RIGHT), _LEFT, _RIGHT))  # beyond: at the edge
                axis.plot(at, y[self.level], "o", color="black", ms=9, zorder=5, clip_on=False)
        axis.axvline(self.budget, color="#777777", lw=1)
        axis.set(
            xscale="log",
            xlim=(_LEFT, _RIGHT),
            ylim=(0, 1.02),
            xlabel="false positives per validation volume",
            ylabel="sensitivity",
        )
        axis.legend(fontsize=8, loc="lower right")
        return figure

    def render(self) -> bytes:
        """:meth:`draw` as PNG."""
        return figures.png(self.draw())

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        from dmplus.widgets import picture_class

        run = ipywidgets.Dropdown(options=self.names, value=self.name, description="model")
        level = ipywidgets.IntSlider(self.level, 0, len(LEVELS) - 1, description="threshold", readout=False)
        look = ipywidgets.Button(description="Test it, once")
        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML(self.describe())

        def refresh(_: Any = None) -> None:
            self.name, self.level = run.value, level.value
            words.value = picture.alt = self.describe()
            picture.png = self.render()

        def on_look(_: Any) -> None:
            self.test()
            for control in (run, level, look):
                control.disabled = True
            refresh()

        run.observe(refresh, "value")
        level.observe(refresh, "value")
        look.on_click(on_look)
        self.controls = {"run": run, "level": level, "look": look, "picture": picture, "words": words}
        return ipywidgets.VBox([run, level, look, picture, words])
