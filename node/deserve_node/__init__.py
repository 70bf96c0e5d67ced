"""The volunteer's daemon: shards of a model, the engine that runs them, and the ring they form."""
