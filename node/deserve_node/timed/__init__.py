"""Stages that take the time of a profile instead of computing.

Everything else of a node is real: process, links, frames of the right size, scheduler, the account of KV pages. So
settings that no machine at hand can hold are run as they would run, and a planner's predictions are put to the test.
"""
