"""Few-shot classification: heads, calibration, conformal sets, `unknown`, and their measurement."""
