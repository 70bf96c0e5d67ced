-- Token logs are written as columns now. Rows under way draw their tokens again: the same ones, by seed and position.

UPDATE rows SET log = NULL;
