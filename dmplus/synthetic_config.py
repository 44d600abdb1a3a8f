"""Every parameter of the synthetic patients, with its unit, and the three cohorts ``smoke``, ``quick`` and ``gpu``.

Numbers follow published statistics of brain metastases where there are any (named beside the field) and are design
choices elsewhere. Intensities are in units of white matter (white matter = 1) before the scanner's scale.
"""

from __future__ import annotations

import dataclasses

from dmplus.runtime import InputError


@dataclasses.dataclass(frozen=True)
class CohortConfig:
    """One synthetic cohort: who, how many, and every law the patients are drawn from.

    Raises ``InputError`` for a grid below 32 voxels, fewer patients than parts of the split, and shares outside 0–1.
    """

    name: str = "quick"
    seed: int = 2022
    # ------------------------------------------------------------------------------------------- patients and visits
    patients: int = 215  #: patients in all
    split: tuple[int, int, int] = (150, 20, 45)  #: parts for train, validation and test (whole patients)
    visits: tuple[float, ...] = (0.5, 0.35, 0.15)  #: share of patients with 1, 2, 3, ... visits in the cohort
    prior_share_train: float = 0.78  #: share of visits with an earlier scan, train and validation (Huang et al. 2022)
    prior_share_test: float = 0.69  #: the same for test
    interval_days: tuple[int, int] = (42, 84)  #: days between visits: 6 to 12 weeks
    # ----------------------------------------------------------------------------------------------------------- grid
    shape: tuple[int, int, int] = (112, 128, 96)  #: voxels of 1 mm; smaller than a brain = a crop of it
    # -------------------------------------------------------------------------------------------------------- anatomy
    anatomy: str = ""  #: "" = the shipped template; else the path of an .npz that assets/make_colin27.py made
    scale: tuple[float, float, float, float] = (0.94, 0.035, 0.86, 1.0)  #: head size / template: mean, sd, least, most
    rotation_deg: float = 4.0  #: head tilt about each axis, standard deviation, degrees
    warp_mm: tuple[float, float] = (3.0, 0.8)  #: displacement, root mean square per axis, coarse and fine, mm
    warp_spacing_mm: tuple[float, float] = (28.0, 11.0)  #: distance of the warp's control points, mm
    sharpening: float = 0.5  #: share of the template's own detail (scale 1.5 mm) added again: it is an average brain
    grey: tuple[float, float] = (0.76, 0.02)  #: grey / white matter, mean and sd over patients
    fluid: tuple[float, float] = (0.26, 0.02)  #: fluid / white matter, mean and sd over patients
    sulcus_spacing_mm: float = 6.5  #: control-point distance of the patient's own sulci, mm
    sulcus_width_mm: tuple[float, float] = (0.6, 1.1)  #: half width of the fluid in a sulcus, uniform over patients, mm
    sulcus_depth: float = 0.85  #: share of fluid in the middle of a sulcus, 0-1
    texture: float = 0.025  #: sd of the tissue's fine texture (white matter = 1)
    texture_mm: float = 0.8  #: its scale (Gaussian sigma, mm)
    # ---------------------------------------------------------------------------------------- enhancing non-lesions
    surface_veins: float = 27.0  #: per litre of brain: veins on the cortex
    sulcal_vessels: float = 8.5  #: per litre of brain: vessels that follow sulci and cisterns inwards
    medullary_veins: float = 2.5  #: per litre of brain: thin veins in white matter
    vessel_radius_mm: tuple[float, float] = (0.6, 2.0)  #: smallest and largest radius of a vessel, mm
    vessel_branches: float = 1.2  #: mean number of branches of a vessel (Poisson), which branch again
    vessel_level: tuple[float, float] = (1.6, 2.4)  #: blood with contrast agent (white matter = 1)
    blood: float = 0.55  #: blood without contrast agent
    dura_share: float = 0.08  #: share of the brain's border where dura enhances
    blobs: float = 0.9  #: per litre of brain: ambiguous persistent blobs (0.03-0.6 cm3, elongated)
    blob_volume_cm3: tuple[float, float] = (0.03, 0.6)  #: their volumes, log-uniform
    spots: float = 0.8  #: per litre: persistent round spots like small metastases. The knob for precision
    spot_volume_cm3: tuple[float, float] = (0.004, 0.1)  #: their volumes, from the size law cut to this range
    bolus: float = 0.12  #: sd of the contrast level of vessels between visits (relative)
    flow: float = 0.08  #: sd of its smooth variation within a visit (relative)
    # ----------------------------------------------------------------------------------------------------- metastases
    lesions_extra: float = 1.25  #: lesions at the first visit = 1 + negative binomial of this mean
    lesions_dispersion: float = 1.0  #: its size parameter; small = heavy tail
    lesions_most: int = 30  #: most lesions of a patient
    size_log_mean: float = -2.1  #: ln V[cm3] ~ N(mean, sd2): 44 % below 0.1 cm3 (Huang et al. 2022)
    size_log_sd: float = 1.8
    volume_cm3: tuple[float, float] = (0.003, 30.0)  #: smallest and largest lesion, cm3
    least_voxels: int = 3  #: smallest lesion after rasterisation
    contrast: tuple[float, float, float, float] = (1.4, 0.35, 1.15, 2.4)  #: log-normal mean, sd; least, most; after PSF
    necrosis_edges_cm3: tuple[float, ...] = (0.1, 0.5, 1.0, 5.0)  #: volume bins of the next line
    necrosis_share: tuple[float, ...] = (0.05, 0.35, 0.72, 0.93, 1.0)  #: lesions with a necrotic core per bin
    necrosis_level: tuple[float, float] = (0.5, 0.7)  #: intensity of the core
    rim_mm: tuple[float, float] = (4.2, 0.45)  #: enhancing rim: median, sd of its logarithm
    core_share_most: float = 0.6  #: largest core / lesion volume
    elongation: float = 0.20  #: sd of ln of the lesion's half axes
    irregularity: float = 0.07  #: relative amplitude of bumps on its surface
    oedema_from_cm3: float = 0.3  #: smallest lesion with oedema
    oedema_share: float = 0.6  #: share of those that have it
    oedema_mm: tuple[float, float] = (2.0, 7.0)  #: its reach, uniform, mm
    oedema_level: float = 0.76  #: intensity of oedematous white matter
    regions: tuple[float, float, float, float] = (1.8, 1.5, 1.5, 0.15)  #: cerebellum, parietal, occipital, deep: weight
    # --------------------------------------------------------------------------------------------- change over time
    new_lesions: float = 0.35  #: new lesions per exam (Poisson)
    new_volume_cm3: tuple[float, float] = (0.003, 0.5)  #: size law cut to this range for new lesions
    course_share: tuple[float, float, float] = (0.48, 0.25, 0.27)  #: of lesions: untreated growing, stable, treated
    treatment: float = 0.2  #: chance per visit that a growing lesion is treated from then on
    growth: tuple[float, float, float] = (3.0, 0.45, 0.40)  #: ln ratio per 70 d ~ Student t: df, location, scale
    stable_log_sd: float = 0.12  #: ln ratio of stable lesions
    response: tuple[float, float] = (0.6, 0.25)  #: treated: volume ratio per step, sd of its logarithm
    vanish: tuple[int, float] = (3, 0.2)  #: from this step after treatment on, chance per step to be gone
    pseudo_share: float = 0.15  #: of treated lesions: transient growth first (pseudo-progression)
    pseudo_ratio: tuple[float, float] = (1.3, 2.0)  #: by this ratio, over 1-2 visits
    # -------------------------------------------------------------------------------------------------------- scanner
    psf_mm: float = 1.0  #: point spread, full width at half maximum, mm
    snr: tuple[float, float] = (25.0, 40.0)  #: white matter / sigma of the Rician noise, uniform over visits
    bias: float = 0.10  #: bias field, largest deviation (relative)
    bias_spacing_mm: float = 70.0  #: control-point distance of the bias field, mm
    contrast_jitter: float = 0.01  #: sd of grey and fluid levels between visits
    scanner_level: tuple[float, float] = (300.0, 900.0)  #: raw intensity of white matter, log-uniform over visits
    misregistration_mm: tuple[float, float] = (1.0, 1.5)  #: prior: root mean square displacement in the brain, uniform
    misregistration_rigid: float = 0.6  #: share of the squared displacement that is rigid

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 32:
            raise InputError(
                f"cohort {self.name}: expected a grid of at least 32 voxels a side; got {self.shape}; enlarge it"
            )
        if self.patients < 1 or len(self.split) != 3 or min(self.split) < 0 or sum(self.split) < 1:
            raise InputError(
                f"cohort {self.name}: expected patients >= 1 and three parts for the split; got {self.patients} and "
                f"{self.split}; correct them"
            )
        shares = ("prior_share_train", "prior_share_test", "dura_share", "oedema_share", "treatment", "pseudo_share")
        for field in shares:
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(
                    f"cohort {self.name}: expected {field} between 0 and 1; got {getattr(self, field)}; correct it"
                )
        for field in ("visits", "course_share"):
            if min(getattr(self, field)) < 0 or sum(getattr(self, field)) <= 0:
                raise InputError(
                    f"cohort {self.name}: expected shares >= 0 in {field}, not all 0; got "
                    f"{getattr(self, field)}; correct it"
                )


_QUICK = CohortConfig()

#: Cohorts by name: ``smoke`` (tests), ``quick`` (a laptop), ``gpu`` (whole brains on the paper's grid).
COHORTS: dict[str, CohortConfig] = {
    "smoke": dataclasses.replace(_QUICK, name="smoke", patients=6, split=(3, 1, 2), shape=(56, 56, 48)),
    "quick": _QUICK,
    "gpu": dataclasses.replace(_QUICK, name="gpu", shape=(240, 240, 155)),
}
