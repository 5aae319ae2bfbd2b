"""Few-shot classifiers, one file each: a plugin has ``DESCRIPTION`` and ``fit``.

``fit(x_ND, y_N, *, class_count) -> serving.fewshot.head.Head`` takes centred embeddings of unit
length and class numbers, and returns a head that predicts calibrated probabilities.
"""
