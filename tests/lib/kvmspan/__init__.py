# SPDX-License-Identifier: GPL-2.0
"""The emulated machine and the test runner of KVM Span."""
