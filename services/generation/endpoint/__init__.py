"""Completions of the policy under training by OpenAI's API, in slots that no window needs."""
