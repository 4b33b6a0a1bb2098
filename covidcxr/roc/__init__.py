"""How well a score tells cases with an outcome from cases without: curves, areas, intervals, operating points, calibration.

    area = roc.bootstrap_auc(died, percentage, patients, seed=0)
    print(area)                          # AUC 0.78 [0.61, 0.92] (33 cases, 10 positive; bootstrap over 24 patients)
    print(roc.youden(died, percentage, patients, seed=0))

Everywhere `truth` (N,) says which cases are positive (bool or 0/1, none missing), `scores` (N,) are finite and higher where a
positive is more likely, and `patients` (N,) name whose case it is. Cases of one patient are not independent: intervals resample
patients, or take the patient's cases as one cluster. From a threshold on a case is called positive (score >= threshold), as in
scikit-learn.

    areas             auc, delong, bootstrap_auc, newcombe_interval, compare; the error of a planned study
    curves            curve, precision_recall, average precision with its interval
    operating_points  at_threshold, youden, at_specificity, predictive_values
    risks             cross_validated_risk, calibration, reliability
    cases             what goes in, looked through
    resampling        every resample of patients at once

Sources: DeLong, DeLong and Clarke-Pearson 1988 (10.2307/2531595); Sun and Xu 2014 (10.1109/LSP.2014.2337313) for midranks;
Obuchowski 1997 (10.2307/2533958) for clusters; Hanley and McNeil 1982 (10.1148/radiology.143.1.7063747); Newcombe 2006
(10.1002/sim.2324).
"""

from covidcxr.roc.areas import (
    Difference,
    Estimate,
    auc,
    bootstrap_auc,
    compare,
    delong,
    hanley_mcneil_error,
    newcombe_interval,
)
from covidcxr.roc.curves import (
    Curve,
    PrecisionRecall,
    average_precision_draws,
    bootstrap_average_precision,
    curve,
    precision_recall,
)
from covidcxr.roc.operating_points import OperatingPoint, at_specificity, at_threshold, predictive_values, youden
from covidcxr.roc.risks import Calibration, calibration, cross_validated_risk, reliability

__all__ = [
    "Calibration", "Curve", "Difference", "Estimate", "OperatingPoint", "PrecisionRecall", "at_specificity", "at_threshold",
    "auc", "average_precision_draws", "bootstrap_auc", "bootstrap_average_precision", "calibration", "compare",
    "cross_validated_risk", "curve", "delong", "hanley_mcneil_error", "newcombe_interval", "precision_recall",
    "predictive_values", "reliability", "youden",
]
