# SPDX-License-Identifier: GPL-2.0
"""What a test is: a name area/case, where it runs, and a function.

    @case("mem/pattern-guest-to-l1", topology="two-l1")
    def pattern(m):
        ...             # any exception fails the test; Skip skips it
"""
import glob
import importlib.util
import os
import re
import subprocess

from . import ktap, paths

AREAS = ("machine", "stock", "mem", "event", "vcpu", "io", "ooh", "libvirt", "unit")
registry = []


class Skip(Exception):
    """The test cannot run here; say why."""


class Case:
    """topology None: on the host. fresh: wants a machine of its own.
    kernels: only with these. modules: KVM at L0. expect: regexes of kernel
    messages that belong to the test."""

    def __init__(self, name, function, topology=None, tags=("fast",), timeout=120, modules="span",
                 fresh=False, kernels=None, expect=(), vms=True):
        if name.split("/")[0] not in AREAS or name.count("/") != 1:
            raise ValueError(f"'{name}' is not area/case with one of {', '.join(AREAS)}")
        self.name, self.function, self.topology = name, function, topology
        self.tags, self.timeout, self.modules, self.fresh = tuple(tags), timeout, modules, fresh
        self.kernels, self.expect, self.vms = kernels, [re.compile(e) for e in expect], vms

    def key(self):
        """Cases with the same key can share one machine."""
        own = self.name if self.fresh else None
        return (self.topology, self.modules, self.vms, own)


def case(name, **options):
    def wrap(function):
        registry.append(Case(name, function, **options))
        return function
    return wrap


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


# Unit tests on the host.

def _unit(path):
    def run(_m):
        p = subprocess.run([path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                           check=False, env=dict(os.environ, UBSAN_OPTIONS="print_stacktrace=1"))
        return ktap.Output(p.stdout.decode(errors="replace"), p.returncode)
    return run


def unit_cases():
    where = os.path.join(paths.TOP, "tests", "unit")
    sources = sorted(glob.glob(os.path.join(where, "test-*.c")))
    if not sources:
        return
    out = paths.build("tests", "unit")
    for source in sources:
        name = os.path.basename(source)[5:-2]
        binary = os.path.join(out, f"test-{name}")

        def run(_m, binary=binary):
            make = subprocess.run(["make", "-s", "-C", where, f"O={out}", binary], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
            check(make.returncode == 0, f"does not build: {make.stdout.decode(errors='replace')[-3000:]}")
            return _unit(binary)(_m)
        yield Case(f"unit/{name}", run)
    for script in sorted(glob.glob(os.path.join(where, "test-*.py")) + glob.glob(os.path.join(where, "test-*.sh"))):
        name = os.path.splitext(os.path.basename(script))[0][5:]
        yield Case(f"unit/{name}", _unit(script))


# One-file programs, run on a level of the machine.

def _program(name, level, args, timeout):
    def run(m):
        target = m[level]
        rc, _ = target.run(f"test -x /usr/local/bin/{name}", check=False)
        check(rc == 0, f"no {name} on {level}: was it built (make selftests)?")
        rc, out = target.run(f"{name} {args}", timeout=timeout, check=False)
        return ktap.Output(out, rc)
    return run


def kvm_cases():
    """tests/kvm/NAME.c; a comment line "test: area/case key=value ..." says more, "test: none" that others run it."""
    for source in sorted(glob.glob(os.path.join(paths.TOP, "tests", "kvm", "*.c"))):
        name = os.path.basename(source)[:-2]
        with open(source, encoding="utf-8") as f:
            text = f.read()
        if "int main(" not in text:
            continue
        lines = re.findall(r"^(?: \*|//|/\*) test: (\S+)(.*?)(?:\*/)?$", text, re.M)
        for title, rest in [line for line in lines if line[0] != "none"] if lines else [("mem/" + name.replace("_", "-"), "")]:
            o = dict(w.partition("=")[::2] for w in rest.split())
            timeout = int(o.get("timeout", 120))
            yield Case(title, _program(name, o.get("level", "L0"), o.get("args", "").replace(",", " "), timeout),
                       topology=o.get("topology", "single"), tags=o.get("tags", "fast,debug").split(","),
                       timeout=timeout, modules=o.get("modules", "span"))


def python_cases():
    for path in sorted(glob.glob(os.path.join(paths.TOP, "tests", "system", "test_*.py"))):
        name = os.path.basename(path)[:-3]
        spec = importlib.util.spec_from_file_location(name, path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield from registry


def everything():
    cases = list(unit_cases()) + list(kvm_cases()) + list(python_cases())
    names = [c.name for c in cases]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"test names used twice: {', '.join(twice)}")
    return cases
