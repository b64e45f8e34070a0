# SPDX-License-Identifier: GPL-2.0
"""Where things are."""
import os

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.environ.get("KVM_SPAN_BUILD", os.path.join(TOP, "build"))
MACHINE = os.path.join(TOP, "tests", "machine")
IMAGES = os.path.join(BUILD, "images")
RESULTS = os.path.join(BUILD, "results")


def build(*parts):
    return os.path.join(BUILD, *parts)
