"""The prompts of the methods that ask the model.

They are plain strings: whoever sends them applies the chat template. `parsing` reads the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class LabelPrompt:
    """A prompt whose next token is one of a few labels.

    Attributes:
        text: the prompt, which ends where the label begins.
        labels: the labels' texts with the blank before each; their first tokens differ.
    """

    text: str
    labels: tuple[str, ...]


TRUE_FALSE: Final = (" True", " False")
NLI_LABELS: Final = (" A", " B", " C")
"""Entailment, neutrality, contradiction. In most vocabularies a letter is one token, where a
word may be several."""

EXPRESSIONS: Final = {
    "Almost Certain": 0.95,
    "Highly Likely": 0.9,
    "Very Good Chance": 0.8,
    "We Believe": 0.75,
    "Probably": 0.7,
    "Probable": 0.7,
    "Likely": 0.7,
    "Better than Even": 0.6,
    "About Even": 0.5,
    "Probably Not": 0.25,
    "We Doubt": 0.2,
    "Unlikely": 0.2,
    "Little Chance": 0.1,
    "Chances Are Slight": 0.1,
    "Improbable": 0.1,
    "Highly Unlikely": 0.05,
    "Almost No Chance": 0.02,
}
"""What confidence each expression stands for (arXiv 2305.14975, lm-polygraph's configurations)."""

_TRUE_OR_FALSE: Final = "Is the possible answer:\n (A) True\n (B) False\nThe possible answer is:"


def p_true(question: str, answer: str) -> LabelPrompt:
    """P(True) (arXiv 2207.05221): is this answer right? Labels: True, False."""
    text = f"Question: {question}\nPossible answer: {answer}\n{_TRUE_OR_FALSE}"
    return LabelPrompt(text, TRUE_FALSE)


def p_true_sampling(question: str, answer: str, samples: Sequence[str]) -> LabelPrompt:
    """P(True) with brainstormed samples before the answer (arXiv 2207.05221, section 3.2)."""
    ideas = "\n".join(samples)
    text = (
        f"Question: {question}\nHere are some ideas that were brainstormed:\n{ideas}\n"
        f"Possible answer: {answer}\n{_TRUE_OR_FALSE}"
    )
    return LabelPrompt(text, TRUE_FALSE)


def self_nli(premise: str, hypothesis: str, question: str | None = None) -> LabelPrompt:
    """Natural language inference by the model itself. Labels: `NLI_LABELS`."""
    context = f"Both texts answer the question: {question}\n" if question is not None else ""
    text = (
        f"{context}Text 1: {premise}\nText 2: {hypothesis}\n"
        "If text 1 is true, text 2 is:\n"
        " (A) true as well: text 1 entails it\n"
        " (B) possibly true: neither follows\n"
        " (C) false: text 1 contradicts it\n"
        "Choice:"
    )
    return LabelPrompt(text, NLI_LABELS)


def verbalized_1s(question: str) -> str:
    """Asks for the answer and its probability in one step (arXiv 2305.14975, "Verb. 1S")."""
    return (
        "Answer the question below as briefly as you can, and state the probability, from "
        "0.0 to 1.0, that your answer is correct. Write two lines and nothing else:\n\n"
        "Guess: <your answer>\nProbability: <a number from 0.0 to 1.0>\n\n"
        f"Question: {question}"
    )


def verbalized_2s() -> str:
    """The user's next turn after the answer: asks for its probability ("Verb. 2S")."""
    return (
        "What is the probability, from 0.0 to 1.0, that your answer is correct? "
        "Write one line and nothing else:\n\nProbability: <a number from 0.0 to 1.0>"
    )


def linguistic_1s(question: str) -> str:
    """Asks for the answer and one of `EXPRESSIONS` ("Ling. 1S" of arXiv 2305.14975)."""
    expressions = "\n".join(EXPRESSIONS)
    return (
        "Answer the question below as briefly as you can, and say how likely your answer is "
        f"to be correct with one of these expressions:\n\n{expressions}\n\n"
        "Write two lines and nothing else:\n\n"
        "Guess: <your answer>\nConfidence: <one of the expressions>\n\n"
        f"Question: {question}"
    )


_JUDGED: Final = (
    "Read the question, which may come with a context, and the answer. Decide whether the answer "
    "answers the question correctly: look at the answer, and reply Y or N.\n"
    "Context: The river Oder rises in the Czech Republic and flows into the Baltic Sea.\n"
    "Question: Into which sea does the Oder flow?\n"
    "Answer: It flows into the Black Sea.\n"
    "Decision: N. (It flows into the Baltic Sea, not the Black Sea.)\n\n"
    "Context: Anna is a good cook.\n"
    "Question: How old is Anna?\n"
    "Answer: Anna likes to cook.\n"
    "Decision: N. (The answer does not tell Anna's age.)\n\n"
    "Question: What is the capital of Peru?\n"
    "Answer: The capital of Peru is Lima.\n"
    "Decision: Y.\n\n"
    "Question: Who painted the Mona Lisa?\n"
    "Answer: Leonardo da Vinci have painted it.\n"
    "Decision: Y. (Mistakes of grammar do not count.)\n\n"
)


def eliciting(question: str) -> tuple[str, str]:
    """What stands before and after an answer that the model is about to judge, for `csl`.

    Four examples, as in the paper (EMNLP 2024, main 578), whose examples are others.
    """
    return f"{_JUDGED}Question: {question}\nAnswer: ", "\n\nDecision:"
