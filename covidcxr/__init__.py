"""covidcxr: a reproducible study kit for five papers on COVID-19 imaging.

Importing the package loads neither TensorFlow nor Keras nor pandas: each module imports what it needs, where it needs it.
"""

__version__ = "0.1.0"
