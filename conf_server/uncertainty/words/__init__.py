"""Words and what two texts have of them in common, as ROUGE and BLEU count them."""
