"""dmplus: brain metastasis detection in longitudinal MRI, after Huang et al. 2022 (doi 10.1002/mp.15863).

One module per concept; import the module you need, for example ``from dmplus import losses, metrics, network``.
Synthetic data, research and teaching only: not for clinical use.
"""

__version__ = "0.1.0"
