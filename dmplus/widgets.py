"""What one moves: a viewer for one case, with a slider, planes, prior / current / overlay, and clicks that answer.

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
from dmplus.triage import Triage
from dmplus.volume import Case

if TYPE_CHECKING:
    import ipywidgets

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


@functools.cache
def _picture_class() -> type:
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
        if triage.union.shape != case.shape:
            raise InputError(
                f"viewer: expected a triage of shape {case.shape}; got {triage.union.shape}; triage this case"
            )
        self.case, self.triage, self.height = case, triage, height
        self.plane, self.panel = "axial", "overlay"
        self.index = figures.best_slice(triage.union)

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
        text = f"voxel {voxel}: sensitive model {self.triage.prob_sens[voxel]:.2f}"
        if self.triage.prob_spec is not None:
            text += f", specific model {self.triage.prob_spec[voxel]:.2f}"
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
        panel = ipywidgets.ToggleButtons(options=names, value=self.panel, description="Show")
        plane = ipywidgets.ToggleButtons(options=figures.PLANES, value=self.plane, description="Plane")
        slider = ipywidgets.IntSlider(self.index, 0, self.slices - 1, description="Slice", layout={"width": "520px"})
        numbers = [
            (f"{n} ({t})", n) for n, t in zip(self.triage.lesions["lesion"], self.triage.lesions["tier"], strict=True)
        ]
        jump = ipywidgets.Dropdown(options=[("go to lesion", 0), *numbers], value=0, description="Lesion")
        picture = _picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.Label("Click in the picture to ask what is there.")

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
