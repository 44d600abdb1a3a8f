"""What one moves: a viewer for one case, with a slider, planes and clicks that answer; the VSS loss under its knobs; a prior
that is shifted by hand.

Each widget is a plain class whose callbacks run without a browser, and has a static twin in :mod:`dmplus.figures`. Make
one only where :func:`dmplus.course.interactive` is true: a saved notebook cannot show it.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from dmplus import figures
from dmplus.runtime import InputError
from dmplus.triage import Triage, probability_words
from dmplus.volume import Case

if TYPE_CHECKING:
    import ipywidgets

    from dmplus.network import DeepMedic
    from dmplus.runtime import Machine

#: Draws the PNG that Python sends and sends back where in it the reader clicked, as fractions of its width and height.
_PICTURE = """
function render({ model, el }) {
  const image = document.createElement("img");
  image.style.cssText = "max-width: 100%; cursor: crosshair; display: block";
  function draw() {
    const old = image.src;
    image.src = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
    image.alt = model.get("alt");
  }
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    model.set("click", [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
    model.save_changes();
  });
  model.on("change:png", draw);
  draw();
  el.appendChild(image);
}
export default { render };
"""


#: Of buttons in a row: wide enough to have their name beside them. Sentences are HTML widgets, because labels do not wrap.
_WIDE = {"layout": {"width": "560px"}}


@functools.cache
def picture_class() -> type:
    import anywidget
    import traitlets

    class Picture(anywidget.AnyWidget):
        """An image that reports clicks."""

        _esm = _PICTURE
        png = traitlets.Bytes(b"").tag(sync=True)
        alt = traitlets.Unicode("").tag(sync=True)
        click = traitlets.List([]).tag(sync=True)

    return Picture


class Viewer:
    """A viewer for one case and its triage: :meth:`render` and :meth:`at` do the work, :meth:`widget` the moving.

    panel: "current", "prior" (if the case has one) or "overlay". plane: "axial", "coronal" or "sagittal". index: slice;
    it starts where most lesion voxels lie. Its static twin is :func:`dmplus.figures.slices`.
    """

    def __init__(self, case: Case, triage: Triage, *, height: int = 440) -> None:
        triage.check_grid(case)
        self.case, self.triage, self.height = case, triage, height
        self.plane, self.panel = "axial", "overlay"
        self.index = figures.best_slice(triage.union)
        self.marks: list[tuple[int, int, int]] = []  #: voxels drawn as crosses, on their slice and the two beside it

    @property
    def panels(self) -> tuple[str, ...]:
        """What can be shown."""
        return ("prior", "current", "overlay") if self.case.prior is not None else ("current", "overlay")

    @property
    def slices(self) -> int:
        """Number of slices of the plane."""
        return self.case.shape[figures.AXIS[self.plane]]

    def render(self) -> bytes:
        """The slice as PNG, without any margin, so that a place in the picture is a place in the slice."""
        from matplotlib.figure import Figure

        rows, columns = figures.plane_of(self.case.mask, self.plane, self.index).shape
        figure = Figure(figsize=(columns / rows * self.height / 100, self.height / 100), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        figures.draw_panel(axes, self.case, self.triage, self.panel, plane=self.plane, index=self.index)
        axis = figures.AXIS[self.plane]
        first, second = (a for a in range(3) if a != axis)
        for mark in (m for m in self.marks if abs(m[axis] - self.index) <= 1):
            at = self.case.shape[first] - 1 - mark[first], self.case.shape[second] - 1 - mark[second]
            axes.plot(*at, marker="+", color="#F0E442", markersize=14, markeredgewidth=2)
        axes.set_aspect("auto")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def voxel(self, right: float, down: float) -> tuple[int, int, int]:
        """The voxel at a place of the picture, as fractions of its width and height from the upper left corner."""
        axis = figures.AXIS[self.plane]
        first, second = (a for a in range(3) if a != axis)
        found = [0, 0, 0]
        found[axis] = self.index
        for a, fraction in ((first, right), (second, down)):
            n = self.case.shape[a]
            found[a] = n - 1 - int(np.clip(fraction * n, 0, n - 1))  # both run against their axis, see plane_of
        return found[0], found[1], found[2]

    def at(self, right: float, down: float) -> str:
        """What is there, in words: the voxel, both probabilities, and the lesion with its tier, volume and change."""
        voxel = self.voxel(right, down)
        text = f"voxel {voxel}: sensitive model {probability_words(self.triage.prob_sens[voxel])}"
        if self.triage.prob_spec is not None:
            text += f", specific model {probability_words(self.triage.prob_spec[voxel])}"
        number = int(self.triage.labels[voxel])
        if number == 0:
            return text + "; no lesion here"
        row = self.triage.lesions.set_index("lesion").loc[number]
        change = figures.change_words(row["change"], row["volume_ratio"], row["prior_volume_mm3"])
        return f"{text}; lesion {number}, {row['tier']}, {figures.volume_words(row['volume_mm3'])}, {change}"

    def go_to(self, lesion: int) -> None:
        """Show the slice through the middle of a lesion."""
        voxels = np.argwhere(self.triage.labels == lesion)
        if not len(voxels):
            raise InputError(
                f"viewer: expected a lesion from 1 to {len(self.triage.lesions)}; got {lesion}; choose one"
            )
        self.index = int(np.median(voxels[:, figures.AXIS[self.plane]]))

    def describe(self) -> str:
        """The picture in words."""
        return f"{self.plane} slice {self.index} of {self.slices}, {figures.PANELS[self.panel].lower()}"

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        names = {figures.PANELS[p]: p for p in self.panels}
        panel = ipywidgets.ToggleButtons(options=names, value=self.panel, description="Show", **_WIDE)
        plane = ipywidgets.ToggleButtons(options=figures.PLANES, value=self.plane, description="Plane", **_WIDE)
        slider = ipywidgets.IntSlider(self.index, 0, self.slices - 1, description="Slice", layout={"width": "520px"})
        numbers = [
            (f"{n} ({t})", n) for n, t in zip(self.triage.lesions["lesion"], self.triage.lesions["tier"], strict=True)
        ]
        jump = ipywidgets.Dropdown(options=[("go to lesion", 0), *numbers], value=0, description="Lesion")
        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML("Click in the picture to ask what is there.")

        def refresh() -> None:
            picture.alt = self.describe()
            picture.png = self.render()

        def on_panel(change: Any) -> None:
            self.panel = change["new"]
            refresh()

        def on_slice(change: Any) -> None:
            self.index = change["new"]
            refresh()

        def on_plane(change: Any) -> None:
            self.plane = change["new"]
            self.index = figures.best_slice(self.triage.union, self.plane)
            slider.max = max(slider.max, self.slices - 1)  # before the value, which has to fit
            slider.value = self.index
            slider.max = self.slices - 1
            refresh()

        def on_jump(change: Any) -> None:
            if change["new"]:
                self.go_to(change["new"])
                slider.value = self.index

        def on_click(change: Any) -> None:
            if change["new"]:
                words.value = self.at(*change["new"])

        for control, answer in ((panel, on_panel), (plane, on_plane), (slider, on_slice), (jump, on_jump)):
            control.observe(answer, "value")
        picture.observe(on_click, "click")
        self.controls = {
            "panel": panel,
            "plane": plane,
            "slice": slider,
            "lesion": jump,
            "picture": picture,
            "words": words,
        }
        return ipywidgets.VBox([panel, plane, slider, jump, picture, words])


def viewer(case: Case, triage: Triage) -> ipywidgets.VBox:
    """The :class:`Viewer` of a case as a widget to display."""
    return Viewer(case, triage).widget()


class VSSExplorer:
    """The VSS loss of a batch under its knobs: alpha, the form, and how loud the loudest spot of one segment is.

    prob, target: (B, X, Y, Z). Its static twin is :func:`dmplus.figures.vss_board`.
    """

    ALPHAS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.995, 1.0)

    def __init__(self, prob: np.ndarray, target: np.ndarray, *, names: list[str] | None = None) -> None:
        self.start, self.target = np.asarray(prob, float), np.asarray(target, float)
        self.names = names or [f"segment {chr(65 + k)}" for k in range(len(self.target))]
        self.alpha, self.form, self.segment, self.loudness = 0.5, "paper", 0, 1.0

    @property
    def prob(self) -> np.ndarray:
        """The probabilities; in the chosen segment all from half its highest on are multiplied by the loudness, at most 1."""
        made = self.start.copy()
        own = made[self.segment]
        spot = own >= own.max() / 2  # the rest stays, so that a spot made quiet is no longer the loudest
        own[spot] = np.minimum(own[spot] * self.loudness, 1)
        return made

    def describe(self) -> str:
        """The loss and the pull on each segment's voxel, in words."""
        value, gradient = figures.vss_gradient(self.prob, self.target, alpha=self.alpha, form=self.form)
        pulls = []
        for name, values in zip(self.names, gradient, strict=True):
            largest = values.ravel()[np.abs(values).argmax()]
            pulls.append(f"{name.replace(chr(10), ' ')} {largest:+.4f}" if largest else f"{name} 0")
        return f"VSS {value:.4f} at alpha {self.alpha:g} ({self.form} form); gradient: " + "; ".join(pulls)

    def render(self) -> bytes:
        """The board as PNG."""
        board = figures.vss_board(self.prob, self.target, alpha=self.alpha, form=self.form, names=self.names)
        return figures.png(board)

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        alpha = ipywidgets.SelectionSlider(options=self.ALPHAS, value=self.alpha, description="alpha")
        form = ipywidgets.ToggleButtons(options=("paper", "released"), value=self.form, description="form", **_WIDE)
        segment = ipywidgets.Dropdown(
            options=[(name.replace("\n", " "), k) for k, name in enumerate(self.names)], value=0, description="segment"
        )
        loudness = ipywidgets.FloatSlider(1.0, min=0.0, max=3.0, step=0.1, description="spot, times")
        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML(self.describe())

        def refresh(change: Any) -> None:
            self.alpha, self.form = alpha.value, form.value
            self.segment, self.loudness = segment.value, loudness.value
            words.value = picture.alt = self.describe()
            picture.png = self.render()

        for control in (alpha, form, segment, loudness):
            control.observe(refresh, "value")
        self.controls = {
            "alpha": alpha, "form": form, "segment": segment, "loudness": loudness, "picture": picture, "words": words,
        }  # fmt: skip
        return ipywidgets.VBox([alpha, form, segment, loudness, picture, words])


def vss_explorer(prob: np.ndarray, target: np.ndarray, *, names: list[str] | None = None) -> ipywidgets.VBox:
    """The :class:`VSSExplorer` of a batch as a widget to display."""
    return VSSExplorer(prob, target, names=names).widget()


class Shifter:
    """A prior that is moved by hand, and what networks then say of one place.

    case: raw, with a prior. place: voxel. networks: name → network that takes a prior. The static twin is
    :func:`dmplus.temporal.draw_visits` and :func:`dmplus.followup.displaced`.
    """

    DIRECTIONS = {"right": (1, 0, 0), "front": (0, 1, 0), "up": (0, 0, 1)}

    def __init__(
        self, case: Case, place: tuple[int, int, int], networks: dict[str, DeepMedic], *, machine: Machine | None = None
    ) -> None:
        if case.prior is None:
            raise InputError(f"shifter: expected a case with a prior; {case.name} has none; take a later visit")
        self.case, self.place, self.networks, self.machine = case, place, networks, machine
        self.mm, self.direction = 0.0, "right"

    @property
    def moved(self) -> Case:
        """The case with its prior where the sliders put it."""
        from dmplus.temporal import moved_prior

        return moved_prior(self.case, self.mm, direction=self.DIRECTIONS[self.direction])

    def heard(self) -> dict[str, float]:
        """Highest probability that each network gives within 3 voxels of the place."""
        from dmplus.inference import predict_volume
        from dmplus.temporal import around

        ready, near = self.moved.normalised(), around(self.case, self.place)
        maps = {
            name: predict_volume(net, ready.image, prior=ready.prior, mask=near, machine=self.machine)
            for name, net in self.networks.items()
        }
        return {name: float(m[near].max()) for name, m in maps.items()}

    def describe(self) -> str:
        """Where the prior is, and what the networks say, in words."""
        said = ", ".join(f"{name} {p:.3f}" for name, p in self.heard().items())
        return f"prior moved {self.mm:g} mm to the {self.direction}: {said}"

    def render(self) -> bytes:
        """Earlier, now and their difference around the place, as PNG."""
        from dmplus.temporal import draw_visits

        titles = (f"earlier, moved {self.mm:g} mm", "now", "now − earlier")
        return figures.png(draw_visits(self.moved, self.place, titles=titles, circle=6))

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        mm = ipywidgets.FloatSlider(self.mm, min=0, max=6, step=0.5, description="mm", continuous_update=False)
        direction = ipywidgets.ToggleButtons(
            options=list(self.DIRECTIONS), value=self.direction, description="to the", **_WIDE
        )
        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML(picture.alt)

        def refresh(_: Any) -> None:
            self.mm, self.direction = mm.value, direction.value
            words.value = picture.alt = self.describe()
            picture.png = self.render()

        mm.observe(refresh, "value")
        direction.observe(refresh, "value")
        self.controls = {"mm": mm, "direction": direction, "picture": picture, "words": words}
        return ipywidgets.VBox([mm, direction, picture, words])


def shifter(
    case: Case, place: tuple[int, int, int], networks: dict[str, DeepMedic], *, machine: Machine | None = None
) -> ipywidgets.VBox:
    """The :class:`Shifter` of a case as a widget to display."""
    return Shifter(case, place, networks, machine=machine).widget()
