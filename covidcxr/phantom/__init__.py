"""The embedded cohort: synthetic thorax CTs and radiographs in the formats of the public COVID-19 sets.

`ensure_cohort("smoke" | "demo")` returns the folder, made once per version of the generator and kept in the cache;
`write_cohort(folder, spec)` writes one anywhere. Patients and their CTs (anatomy, skeleton, vessels, lesions, scan) know nothing
of the files (write_cxr, write_ct).
"""

from covidcxr.phantom.spec import SIZES, CohortSpec, VolumeSpec
from covidcxr.phantom.store import ensure_cohort, fingerprint, write_cohort

__all__ = ["SIZES", "CohortSpec", "VolumeSpec", "ensure_cohort", "fingerprint", "write_cohort"]
