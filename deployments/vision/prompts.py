"""The words the engine asks with when the caller brings none."""

DEFAULT_PROMPT = "Describe what happens in this video clip."
