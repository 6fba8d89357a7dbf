"""A benchmark with truth: subjects that no base has seen, prompts for each, and the very picture that each asks for."""
