"""The HTTP side: OpenAI's Files, Batches and Models, and what this network adds for operators."""
