"""Between a request's text and its tokens: parameters, chat templates, tokenising, stop strings, responses.

Shared by the coordinator, which validates rows, and the head of a ring, which serves them.
"""
