"""A worker's present numbers in, its live page out: what an on-call opens at night. Static files, no build step."""

from ctr.page.page import Page, Subject

__all__ = ["Page", "Subject"]
