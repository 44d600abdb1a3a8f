"""Slices, the triage page and the viewer: orientation, completeness, and callbacks at the ends of their ranges."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dmplus import figures, widgets
from dmplus.runtime import InputError
from dmplus.triage import Triage, triage
from dmplus.volume import Case

SHAPE = (30, 40, 24)


def blob(volume: np.ndarray, centre: tuple[int, int, int], value: float, radius: int = 2) -> None:
    box = tuple(slice(c - radius, c + radius + 1) for c in centre)
    volume[box] = value


def scene(centres: list[tuple[int, int, int]], *, prior: bool = True, confirmed: int = 1) -> tuple[Case, Triage]:
    image = np.full(SHAPE, 100.0, np.float32)
    sens, spec, earlier = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool)
    for k, centre in enumerate(centres):
        blob(image, centre, 200)
        blob(sens, centre, 0.9, radius=2 if k == 0 else 1)
        if k < confirmed:
            blob(spec, centre, 0.8, radius=1)
        if k == 0:
            blob(earlier, centre, True, radius=1)
    affine = np.eye(4)
    affine[:3, 3] = (-15, -20, -12)
    case = Case(
        name="case", image=image, mask=np.ones(SHAPE, bool), prior=image[::-1].copy() if prior else None, affine=affine,
        label=(sens > 0).astype(np.uint8),
    )  # fmt: skip
    return case, triage(sens, spec, affine=affine, earlier=earlier if prior else None)


def texts(figure: object) -> str:
    return "\n".join(t.get_text() for axes in figure.axes for t in axes.texts)


# ------------------------------------------------------------------------------------------------------ slices
@pytest.mark.parametrize(
    ("plane", "index", "voxel"), [("axial", 5, (28, 38, 5)), ("coronal", 7, (28, 7, 22)), ("sagittal", 3, (3, 38, 22))]
)
def test_slices_are_shown_as_a_radiologist_expects(plane: str, index: int, voxel: tuple[int, int, int]) -> None:
    """A voxel far to the patient's right, front and top (the last indices) is in the upper left corner."""
    volume = np.zeros(SHAPE)
    volume[voxel] = 1
    shown = figures.plane_of(volume, plane, index)
    assert [tuple(v) for v in np.argwhere(shown)] == [(1, 1)]


def test_slices_outside_and_unknown_names_are_refused() -> None:
    case, found = scene([(10, 10, 10)], prior=False)
    for plane, index in (("axial", 24), ("axial", -1), ("oblique", 3)):
        with pytest.raises(InputError, match="slice: expected"):
            figures.plane_of(case.image, plane, index)
    for panel in ("nothing", "prior"):
        with pytest.raises(InputError, match="slice: expected"):
            figures.slices(case, found, panels=[panel], index=3)
    with pytest.raises(InputError, match="triage the case first"):
        figures.slices(case, panels=["overlay"], index=3)


def test_the_best_slice_holds_most_voxels() -> None:
    mask = np.zeros(SHAPE, bool)
    assert figures.best_slice(mask) == SHAPE[2] // 2
    mask[3:9, 3:9, 17] = mask[4, 4, 4] = True
    assert figures.best_slice(mask) == 17 and figures.best_slice(mask, "sagittal") == 4


def test_every_panel_draws_and_tiers_have_their_own_dash() -> None:
    case, found = scene([(10, 10, 10), (20, 30, 10)])
    figure = figures.slices(case, found, panels=list(figures.PANELS), index=10, title="All panels")
    assert len(figures.png(figure)) > 5000
    assert [a.get_title(loc="left") for a in figure.axes[:6]] == list(figures.PANELS.values())
    lines = figures.legend_lines(tuple(figures.TIER_LINES), earlier=True, reference=True)
    dashes = [(line.get_color(), line.get_linestyle()) for line in lines]
    assert len(set(dashes)) == len(dashes)
    assert figures.TIER_LINES["confirmed"][1] != figures.TIER_LINES["candidate"][1]


def test_a_lesion_at_the_border_is_outlined_whole() -> None:
    figure, axes = figures.new_figure(3, 3)
    inside = np.zeros((10, 10), bool)
    inside[:3, :3] = True
    axes[0, 0].imshow(inside)
    figures._outline(axes[0, 0], inside, ("black", "solid"))
    (contour,) = axes[0, 0].collections
    x, y = np.concatenate(contour.get_paths()[0].to_polygons()).T
    assert x.min() < 0 and y.min() < 0 and x.max() == pytest.approx(2.5) and y.max() == pytest.approx(2.5)


def test_figures_are_white_large_enough_and_the_style_ends_with_its_block() -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"], matplotlib.rcParams["savefig.facecolor"]
    with figures.style():
        for key in ("figure.facecolor", "savefig.facecolor", "axes.facecolor"):
            assert matplotlib.rcParams[key] == "white"
        for key in (
            "font.size",
            "axes.titlesize",
            "axes.labelsize",
            "xtick.labelsize",
            "ytick.labelsize",
            "legend.fontsize",
        ):
            assert float(matplotlib.rcParams[key]) >= 9
        assert len(matplotlib.rcParams["axes.prop_cycle"].by_key()["linestyle"]) >= 5
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["savefig.facecolor"]) == before
    figure, _ = figures.new_figure(2, 2)
    assert Image.open(io.BytesIO(figures.png(figure))).convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_figure_prints_its_sentence_and_refuses_none(capsys: pytest.CaptureFixture[str]) -> None:
    figure, _ = figures.new_figure(2, 2)
    figures.show(figure, "Figure 1 shows   nothing\n at all.")
    assert capsys.readouterr().out == "Figure 1 shows nothing at all.\n"
    with pytest.raises(InputError, match="15 characters"):
        figures.show(figure, "Figure 1.")


def test_a_figure_carries_its_sentence_as_description(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython
    import IPython.display

    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, raw, metadata: shown.append((data, metadata)))
    figure, _ = figures.new_figure(2, 2)
    figures.show(figure, "Figure 1 shows nothing at all.")
    ((data, metadata),) = shown
    assert data["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["alt"] == "Figure 1 shows nothing at all."


# --------------------------------------------------------------------------------------------------- the triage page
def test_the_page_has_a_row_per_lesion_confirmed_first_and_says_everything() -> None:
    case, found = scene([(10, 10, 10), (20, 30, 10), (10, 30, 15)])
    figure = figures.triage_board(case, found)
    said = texts(figure)
    assert "3 lesions: 1 confirmed, 2 candidates" in said
    assert [t for t in said.split("\n") if t in ("confirmed", "candidate")] == ["confirmed", "candidate", "candidate"]
    for words in ("0.12 cm³", "27 mm³", "peak probability 0.90", "sensitive 0.90, specific 0.80"):
        assert words in said
    assert "growing: 4.6 × the earlier 27 mm³" in said and said.count("new: not found in the earlier scan") == 2
    assert "not for clinical use" in said
    assert len(figure.axes[0].images) == 3 * 6  # three planes and their earlier twins


def test_the_page_without_a_prior_has_three_pictures_a_row_and_claims_no_change() -> None:
    case, found = scene([(10, 10, 10)], prior=False)
    figure = figures.triage_board(case, found)
    assert len(figure.axes[0].images) == 3
    assert "change unknown" in texts(figure) and "growing" not in texts(figure)


def test_a_lesion_seen_by_the_specific_model_alone_says_so() -> None:
    case, found = scene([(10, 10, 10)])
    alone = triage(found.prob_spec * 0, found.prob_spec, affine=case.affine)
    assert "seen by the specific model alone" in texts(figures.triage_board(case, alone))


def test_one_model_makes_no_tiers() -> None:
    case, found = scene([(10, 10, 10)])
    single = triage(found.prob_sens, None, affine=case.affine)
    said = texts(figures.triage_board(case, single))
    assert "one model: no tiers" in said and "untiered" in said and "specific" not in said


def test_the_page_draws_thirty_lesions_and_counts_the_rest(tmp_path: Path) -> None:
    spots = [(3 + 6 * i, 3 + 6 * j, 3 + 6 * k) for i in range(4) for j in range(4) for k in range(2)][:32]
    case, found = scene(spots)
    figure = figures.triage_board(case, found, path=tmp_path / "board.png")
    assert len(found.lesions) == 32 and len(figure.axes[0].images) == 30 * 6
    assert "2 more lesions in the table, not drawn" in texts(figure)
    assert [p.name for p in tmp_path.iterdir()] == ["board.png"]
    narrow = figures.triage_board(case, found, planes=("axial",), most=4, panel=1.0)
    assert len(narrow.axes[0].images) == 4 * 2 and "28 more lesions" in texts(narrow)


@pytest.mark.parametrize("prior", [True, False])
def test_a_page_without_lesions_says_so_over_three_slices(tmp_path: Path, prior: bool) -> None:
    case, found = scene([], prior=prior)
    figure = figures.triage_board(case, found, path=tmp_path / "board.png")
    assert "No lesion found" in texts(figure) and len(figure.axes[0].images) == 3
    with Image.open(tmp_path / "board.png") as page:
        assert page.size[0] > 600


def test_nothing_is_left_behind_when_the_page_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, found = scene([(10, 10, 10)])
    monkeypatch.setattr(figures, "png", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        figures.triage_board(case, found, path=tmp_path / "board.png")
    assert not list(tmp_path.iterdir())


def test_no_text_of_a_page_is_smaller_than_nine_points() -> None:
    case, found = scene([(10, 10, 10), (20, 30, 10)])
    for figure in (figures.triage_board(case, found), figures.triage_board(*scene([]))):
        assert min(t.get_fontsize() for t in figure.axes[0].texts) >= 9


def test_words_for_volume_place_and_change() -> None:
    assert figures.volume_words(99.4) == "99 mm³" and figures.volume_words(100) == "0.10 cm³"
    assert figures.place_words(np.float64(-3.2), 40.0, -1.0) == "L 3, A 40, I 1 mm"
    assert figures.change_words("new", float("nan"), 0.0) == "new: not found in the earlier scan"
    assert figures.change_words("unknown", float("nan"), float("nan")) == "change unknown"
    assert figures.change_words("shrinking", 0.052, 200.0) == "shrinking: 0.052 × the earlier 0.20 cm³"
    assert figures.change_words("growing", 12.3, 200.0) == "growing: 12 × the earlier 0.20 cm³"
    assert figures.change_words("stable", 0.804, 51.0) == "stable: 0.804 × the earlier 51 mm³"  # 0.8 would be shrinking
    assert figures.change_words("growing", 1.25, 51.0) == "growing: 1.25 × the earlier 51 mm³"  # 1.2 would be stable
    assert figures.change_words("stable", 1.246, 51.0) == "stable: 1.2 × the earlier 51 mm³"
    assert [figures.count_words(n, "one", "many") for n in (0, 1, 2)] == ["0 many", "1 one", "2 many"]


def test_a_table_in_words_has_a_row_per_lesion() -> None:
    _, found = scene([(10, 10, 10), (20, 30, 10)])
    table = figures.lesion_rows(found)
    assert table["tier"].tolist() == ["confirmed", "candidate"] and table["volume"].tolist() == ["0.12 cm³", "27 mm³"]
    assert figures.lesion_rows(scene([])[1]).empty


# ----------------------------------------------------------------------------------------------------- the viewer
def test_a_click_answers_for_the_voxel_under_it() -> None:
    """For each plane: the place where a voxel is drawn leads back to it."""
    case, found = scene([(10, 12, 14), (20, 30, 10)])
    view = widgets.Viewer(case, found)
    for plane in figures.PLANES:
        view.plane, target = plane, (10, 12, 14)
        view.index = target[figures.AXIS[plane]]
        marked = np.zeros(SHAPE)
        marked[target] = 1
        ((row, column),) = np.argwhere(figures.plane_of(marked, plane, view.index))
        rows, columns = figures.plane_of(marked, plane, view.index).shape
        assert view.voxel((column + 0.5) / columns, (row + 0.5) / rows) == target
    said = view.at((column + 0.5) / columns, (row + 0.5) / rows)
    assert "sensitive model 0.90, specific model 0.80; lesion 1, confirmed, 0.12 cm³, growing" in said
    assert view.at(0.0, 0.0).endswith("no lesion here") and view.at(1.0, 1.0).endswith("no lesion here")
    found.prob_sens[target] = 0.9996  # as the shipped models say: two decimals would make it certain
    assert "sensitive model 0.9996, specific" in view.at((column + 0.5) / columns, (row + 0.5) / rows)


def test_the_viewer_refuses_a_triage_of_another_case() -> None:
    case, found = scene([(10, 12, 14)])
    other = dataclasses.replace(found, union=found.union[:-1])
    with pytest.raises(InputError, match="expected a triage on its own grid"):
        widgets.Viewer(case, other)
    with pytest.raises(InputError, match="expected a lesion from 1 to 1"):
        widgets.Viewer(case, found).go_to(2)


def test_every_control_at_both_ends_changes_the_picture() -> None:
    case, found = scene([(10, 12, 14), (20, 30, 10)])
    view = widgets.Viewer(case, found)
    box = view.widget()
    panel, plane, slider, lesion, picture, words = box.children
    assert view.index == 14 and slider.value == 14
    seen = {picture.png}
    for value in ("prior", "current", "overlay"):
        panel.value = value
        assert picture.alt.endswith(figures.PANELS[value].lower())
        seen.add(picture.png)
    assert len(seen) == 3
    for value in figures.PLANES[::-1]:
        plane.value = value
        assert slider.max == view.slices - 1 == case.shape[figures.AXIS[value]] - 1
        for end in (0, slider.max):
            slider.value = end
            assert picture.alt.startswith(f"{value} slice {end} ") and picture.png == view.render()
    lesion.value = 2
    assert slider.value == view.index == 10
    picture.click = [0.0, 1.0]
    assert words.value.startswith(f"voxel {view.voxel(0.0, 1.0)}")
    picture.click = [1.0, 0.0]
    assert words.value.startswith(f"voxel {view.voxel(1.0, 0.0)}")


def test_a_viewer_without_prior_or_lesions_still_works() -> None:
    case, found = scene([], prior=False)
    box = widgets.viewer(case, found)
    assert dict(box.children[0].options) == {figures.PANELS[p]: p for p in ("current", "overlay")}
    assert Image.open(io.BytesIO(box.children[4].png)).size[1] == 440


# ------------------------------------------------------------------------------ the legend, titles, pictures, letters
def test_the_outlines_of_other_lesions_are_in_the_legend_and_the_legend_is_on_the_page() -> None:
    case, found = scene([(10, 10, 10), (20, 10, 10)])
    for planes in (figures.PLANES, ("axial",)):
        figure = figures.triage_board(case, found, planes=planes, panel=1.0)
        figure.draw_without_rendering()
        page, words = figure.bbox, [t for t in figure.axes[0].texts if t.get_text() == "other lesions"]
        assert len(words) == 1  # in the legend
        assert all(t.get_window_extent().x1 < page.x1 for t in figure.axes[0].texts)
        colours = [matplotlib.colors.to_hex(c.get_edgecolor()[0]).upper() for c in figure.axes[0].collections]
        assert colours.count(figures.OTHER_LINE[0]) >= 2 and figures.TIER_LINES["candidate"][0] in colours
    lines = [*figures.TIER_LINES.values(), figures.OTHER_LINE, figures.EARLIER_LINE, figures.REFERENCE_LINE]
    assert len({colour for colour, _ in lines}) == len(lines)
    assert "other lesions" not in texts(figures.triage_board(*scene([(10, 10, 10)])))


@pytest.mark.parametrize("panels", [["current", "sens", "spec"], ["current", "reference"]])
def test_titles_of_panels_keep_away_from_the_title(panels: list[str]) -> None:
    case, found = scene([(10, 10, 10)])
    figure = figures.slices(case, found, panels=panels, index=10, title="A title")
    figure.draw_without_rendering()
    title = figure._suptitle.get_window_extent()
    below = max(a._left_title.get_window_extent().y1 for a in figure.axes[: len(panels)])
    assert 5 <= title.y0 - below <= 20


@pytest.fixture(scope="module")
def subject() -> object:
    """A patient of blocks for the two pictures of the README."""
    from dmplus.network import preset

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks" / "figures"))
    try:
        from triage_picture import Subject
    finally:
        del sys.path[0]
    case, found = scene([(10, 10, 10), (20, 30, 10)])
    reference = found.labels.copy()
    reference[found.labels == 2] = 0
    return Subject(
        case=case, found=found, reference=reference, tier_of=np.array([2]), false=np.array([2]),
        lookalikes=np.zeros(SHAPE, np.uint8), weeks=9, rule="a toy", level=10, slab=case, slab_found=found,
        config=preset("quick", prior="path"), losses=("JVSS, alpha 0.995", "JVSS, alpha 0.5"),
    )  # fmt: skip


def test_the_scale_of_an_enlarged_lesion_can_be_read_on_white(subject: object) -> None:
    import triage_picture

    figure = triage_picture.draw_triage(subject)
    scales = [t for a in figure.axes for t in a.texts if t.get_text().endswith(" mm") and t.get_color() == "white"]
    assert len(scales) == 4  # two lesions, now and before
    assert all(e._gc["foreground"] == "black" for t in scales for e in t.get_path_effects())
    assert all(t.get_path_effects() for t in scales)


def test_the_rows_of_the_small_table_stand_on_one_line(subject: object) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks" / "figures"))
    try:
        import flow_picture
    finally:
        del sys.path[0]
    words = flow_picture.draw_flow(subject).axes[0].texts
    rows = {name: [t for t in words if t.get_text() == name] for name in ("lesion", "tier", "volume", "peak")}
    assert all(len(found) == 1 and found[0].get_va() == "baseline" for found in rows.values())
    assert len({found[0].get_position()[1] for found in rows.values()}) == 1


def test_the_picture_of_the_data_card_says_which_side_is_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmplus import synthetic, synthetic_card

    drawn: list[tuple[str, np.ndarray]] = []
    monkeypatch.setattr(
        synthetic_card, "draw_sides", lambda axes, plane: drawn.append((plane, axes.get_images()[0].get_array()))
    )
    cohort = synthetic.COHORTS["smoke"]
    index = next(i for i in range(cohort.patients) if len(synthetic.schedule(cohort, i)[0]) > 1)
    synthetic_card.figure(cohort, index, tmp_path / "card.png")
    assert [plane for plane, _ in drawn] == ["axial", "coronal", "sagittal", "axial"] * 2
    visit = synthetic.patient(cohort, index).visits[-1]
    row = visit.lesions.loc[visit.lesions["volume_mm3"].idxmax()]
    box = np.argwhere(visit.case.mask)
    (x0, y0, _), (x1, y1, _) = box.min(0), box.max(0) + 1
    level = visit.case.image[x0:x1, y0:y1, [round(row["z"])]]
    np.testing.assert_array_equal(drawn[4][1], figures.plane_of(level, "axial", 0))  # the right on the left


# ------------------------------------------------------------------------------------------------ in three dimensions
@pytest.mark.parametrize(
    ("azimuth", "elevation", "down", "right"),
    [(180, 0, (0, 0, -1), (-1, 0, 0)), (0, 0, (0, 0, -1), (1, 0, 0)), (180, 90, (0, 1, 0), (-1, 0, 0)),
     (270, 0, (0, 0, -1), (0, -1, 0))],
)  # fmt: skip
def test_the_camera_sees_the_patient_from_where_it_stands(azimuth, elevation, down, right) -> None:
    """Axes R, A, S. At the face the patient's left is on the right; from above with the face down too."""
    turn = figures._camera(azimuth, elevation)
    assert np.allclose(turn[:, 0], down, atol=1e-9) and np.allclose(turn[:, 1], right, atol=1e-9)
    assert np.isclose(abs(np.linalg.det(turn)), 1)


def test_lesions_are_seen_through_the_brain_in_the_colour_of_their_tier() -> None:
    case, found = scene([(10, 12, 14), (20, 30, 10)])
    case = dataclasses.replace(case, mask=ndimage.binary_erosion(np.ones(SHAPE, bool), iterations=2))
    figure = figures.surface(case, found, views={"face": (180.0, 0.0)})
    at = {t.get_text(): t.xy for t in figure.axes[0].texts}
    assert set(at) == {"1 ✓", "2 ?"}
    assert at["1 ✓"][0] > at["2 ?"][0]  # x 10 lies further to the patient's left, which is on the right
    assert at["1 ✓"][1] < at["2 ?"][1]  # z 14 is higher
    picture = figure.axes[0].images[0].get_array()
    for sign, tier in (("1 ✓", "confirmed"), ("2 ?", "candidate")):
        column, row = (round(v) for v in at[sign])
        colour = np.array(matplotlib.colors.to_rgb(figures.TIER_LINES[tier][0]))
        assert np.corrcoef(picture[row, column], colour)[0, 1] > 0.999
    empty, nothing = scene([])
    assert not figures.surface(empty, nothing).axes[0].texts
