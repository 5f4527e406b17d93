"""One response token by token: from the traces, in the tokenizer's words, beside its prompt."""
