"""The methods that have to be fitted, as part of the catalogue."""

from __future__ import annotations

from typing import Final

from conf_server.uncertainty.method import Method, complement
from conf_server.uncertainty.methods import density, probes
from conf_server.uncertainty.needs import Need

FITTED_METHODS: Final = (
    *(
        Method(
            f"{name}{suffix}",
            needs,
            compute(f"{name}{suffix}"),
            source,
            description.format(what=what),
        )
        for suffix, needs, what in (
            ("", frozenset({Need.TEXT_STATES}), "prompt and answer"),
            ("_answer", frozenset({Need.ANSWER_STATES}), "the answer"),
        )
        for name, compute, source, description in (
            (
                "mahalanobis_distance",
                density.mahalanobis_distance,
                "arXiv 1807.03888",
                "distance of the mean hidden state of {what} from those of the texts that were "
                "fitted on",
            ),
            (
                "relative_mahalanobis_distance",
                density.relative_mahalanobis_distance,
                "arXiv 2209.15558",
                "distance of the mean hidden state of {what} from those of the texts that were "
                "fitted on, less that from those of a background",
            ),
            (
                "rde",
                density.rde,
                "arXiv 2203.01677",
                "squared robust distance of the mean hidden state of {what} from those of the "
                "texts that were fitted on, after a kernel PCA",
            ),
        )
    ),
    *(
        Method(
            f"ppl_md{suffix}",
            frozenset({Need.ANSWER_LOGPROBS, need}),
            density.ppl_md(f"ppl_md{suffix}"),
            "arXiv 2209.15558",
            f"mean rank, 0 to 1, of the answer's perplexity and of the distance of the mean hidden "
            f"state of {what}, among those of the texts that were fitted on",
        )
        for suffix, need, what in (
            ("", Need.TEXT_STATES, "prompt and answer"),
            ("_answer", Need.ANSWER_STATES, "the answer"),
        )
    ),
    Method(
        "linear_probe",
        frozenset({Need.LAST_STATES}),
        probes.linear_probe,
        "arXiv 1610.01644",
        "probability that the answer is wrong, by a logistic regression of its last hidden state",
        complement,
    ),
    Method(
        "saplma",
        frozenset({Need.LAST_STATES}),
        probes.saplma,
        "arXiv 2304.13734",
        "probability that the answer is wrong, by a perceptron on its last hidden state",
        complement,
    ),
    Method(
        "lookback_lens",
        frozenset({Need.LOOKBACK_RATIOS}),
        probes.lookback_lens,
        "arXiv 2407.07071",
        "probability that the answer is wrong, by a logistic regression of how far each head looks "
        "back at the prompt",
        complement,
    ),
)
