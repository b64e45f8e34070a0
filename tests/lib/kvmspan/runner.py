# SPDX-License-Identifier: GPL-2.0
"""Runs cases on machines, several side by side, and sums up."""
import argparse
import json
import os
import re
import shutil
import sys
import threading
import time
import traceback

from . import cases, ktap, paths
from .bochs import MachineError
from .machine import Machine, TimedOut
from .topology import TopologyError

CHUNK = 12  # cases per machine, so that two machines share a long list


class Result:
    """notes: lines that say why it failed, for people who have the runner's output and nothing else."""

    def __init__(self, name, result, seconds, why, text="", notes=()):
        self.name, self.result, self.seconds, self.why, self.text = name, result, seconds, why, text
        self.notes = list(notes)

    def first_reason(self):
        """Of an exception, its text is the reason already."""
        first = next((n for n in self.notes if n not in self.why), "")
        first = "" if first.startswith("Traceback") else first
        return ktap.one_line(f"{self.why}; {first}" if first else self.why)


class Station:
    """One machine after another for one group of cases."""

    def __init__(self, run, key):
        self.run, self.key = run, key
        self.machine = None
        self.seen = []

    def boot(self):
        topology, modules, vms, _ = self.key
        number = self.run.next_number()
        self.machine = Machine(topology, self.run.kernel, modules,
                               directory=os.path.join(self.run.directory, f"{number:02}-{topology}-{modules}"))
        self.machine.boot(vms)
        self.seen = self.machine.suspects()
        return self.machine

    def close(self):
        if self.machine:
            self.machine.close()
        self.machine = None

    def fresh_suspects(self, allowed):
        now = self.machine.suspects()
        new = now[len(self.seen):] if now[:len(self.seen)] == self.seen else now
        self.seen = now
        return [s for s in new if not any(a.search(s) for a in allowed)]

    def do(self, case):
        started = time.monotonic()
        text, notes = "", []
        try:
            if not self.machine:
                self.boot()
                boot_trouble = [s for s in self.seen if not any(a.search(s) for a in case.expect)]
                notes = self.machine.report_of(boot_trouble[0]) if boot_trouble else []
                cases.check(not boot_trouble, "kernel log at boot: " + "; ".join(boot_trouble[:3]))
            self.machine.limit(self.run.timeout or case.timeout)
            value = case.function(self.machine)
            if isinstance(value, ktap.Output):
                text, result, why = value.text, value.result, value.why
            else:
                result, why = "passed", ""
        except cases.Skip as e:
            result, why = "skipped", str(e)
        except (MachineError, AssertionError, TopologyError) as e:
            result, why, text = "failed", str(e) or "assertion", text + traceback.format_exc()
            if isinstance(e, TimedOut) and self.machine:
                notes = self.consoles()
        except Exception as e:  # a bug in the test fails the test, not the run
            result, why, text = "failed", f"{type(e).__name__}: {e}", traceback.format_exc()
        if result == "failed":
            notes = ktap.said(text) + notes
        if self.machine:
            result, why, text = self.verdict(case, result, why, text, notes)
        return Result(case.name, result, time.monotonic() - started, why, text, notes)

    def consoles(self):
        """What the levels wrote last, when something took too long."""
        tails = [(name, self.machine.console_tail(name, 6)) for name in self.machine.levels]
        return [f"{name}: {line}" for name, tail in tails for line in tail]

    def verdict(self, case, result, why, text, notes):
        m = self.machine
        m.limit(None)
        try:
            if m.bochs and not m.dead:
                m.end_processes()
        except MachineError as e:
            result, why = "failed", f"{why} {e}".strip()
        suspects = self.fresh_suspects(case.expect)
        if suspects:
            text += "\nkernel logs:\n" + "\n".join(suspects)
            notes[:0] = m.report_of(suspects[0])
            if result != "failed":
                result, why = "failed", "kernel log: " + "; ".join(suspects[:3])
        if result == "failed":
            try:
                m.collect()
            except Exception as e:
                text += f"\ncollecting the logs: {e}"
            why += f" (logs: {os.path.relpath(m.directory, paths.TOP)})"
            self.close()  # nobody knows what state it is in
        return result, why, text


class Run:
    def __init__(self, args):
        self.kernel, self.timeout = args.kernel, args.timeout
        self.directory = os.path.join(paths.RESULTS, f"run-{os.getpid()}")
        self.ktap = os.path.join(paths.RESULTS, "ktap")
        self._lock = threading.Lock()
        self._number = 0
        self.results = []
        self.stations = set()
        self.stop = False
        self.started = time.monotonic()
        os.makedirs(self.directory)
        shutil.rmtree(self.ktap, ignore_errors=True)
        os.makedirs(self.ktap, exist_ok=True)

    def next_number(self):
        with self._lock:
            self._number += 1
            return self._number

    def report(self, result, total):
        with self._lock:
            self.results.append(result)
            ktap.write(self.ktap, result.name, result.result, result.why, result.text)
            for line in ktap.comments(result.notes):
                print(line)
            print(ktap.line_of(len(self.results), result.name, result.result, result.why), flush=True)
            print(f"# {len(self.results)}/{total} {result.result} in {result.seconds:.1f} s, "
                  f"{time.monotonic() - self.started:.0f} s so far", flush=True)
            self.save()

    def save(self):
        count = {r: sum(1 for x in self.results if x.result == r) for r in ("passed", "failed", "skipped")}
        data = dict(count, kernel=self.kernel, seconds=round(time.monotonic() - self.started, 1),
                    tests=[{"name": r.name, "result": r.result, "seconds": round(r.seconds, 2), "why": r.why}
                           for r in sorted(self.results, key=lambda r: r.name)])
        path = os.path.join(paths.RESULTS, "summary.json")
        with open(path + f".{os.getpid()}", "w", encoding="utf-8") as f:
            json.dump(data, f, indent=1)
            f.write("\n")
        os.replace(path + f".{os.getpid()}", path)
        return count

    def work(self, queue, total):
        while not self.stop:
            with self._lock:
                if not queue:
                    return
                key, group = queue.pop(0)
            station = Station(self, key)
            self.stations.add(station)
            try:
                for c in group:
                    if self.stop:
                        return
                    self.report(station.do(c) if key[0] else self.on_host(c), total)
            finally:
                station.close()
                self.stations.discard(station)

    @staticmethod
    def on_host(case):
        started = time.monotonic()
        try:
            value = case.function(None)
            result, why, text = value.result, value.why, value.text
        except cases.Skip as e:
            result, why, text = "skipped", str(e), ""
        except Exception as e:
            result, why, text = "failed", f"{type(e).__name__}: {e}", traceback.format_exc()
        return Result(case.name, result, time.monotonic() - started, why, text,
                      ktap.said(text) if result == "failed" else ())


def groups_of(chosen):
    by_key = {}
    for c in chosen:
        by_key.setdefault(c.key(), []).append(c)
    queue = []
    for key, group in by_key.items():
        parts = max(1, (len(group) + CHUNK - 1) // CHUNK) if key[0] else 1
        size = (len(group) + parts - 1) // parts
        queue += [(key, group[i:i + size]) for i in range(0, len(group), size)]
    # Long ones first, so that the last machine does not run alone for long.
    queue.sort(key=lambda q: -sum(c.timeout for c in q[1]) if q[0][0] else 0)
    return queue


def choose(all_cases, args):
    chosen = []
    for c in all_cases:
        if args.filter and not re.search(args.filter, c.name):
            continue
        if args.tag and args.tag not in c.tags:
            continue
        if not args.tag and not {"fast", "slow"} & set(c.tags):
            continue
        if c.kernels and args.kernel not in c.kernels:
            continue
        chosen.append(c)
    return chosen


def prune():
    """Logs of runs of more than a day ago."""
    for name in os.listdir(paths.RESULTS):
        path = os.path.join(paths.RESULTS, name)
        if os.path.isdir(path) and name != "ktap" and time.time() - os.path.getmtime(path) > 86400:
            shutil.rmtree(path, ignore_errors=True)


def sum_up(run, not_run, path):
    """What has failed, printed and added to a file that several runs share."""
    lines = [f"# FAILED {r.name} ({run.kernel}): {r.first_reason()}" for r in run.results if r.result == "failed"]
    if not_run:
        lines.append(f"# {not_run} tests were not run ({run.kernel})")
    for line in lines:
        print(line)
    if path:
        with open(path, "a", encoding="utf-8") as f:
            f.write("".join(line + "\n" for line in lines))


def main():
    ap = argparse.ArgumentParser(description="Run the tests of KVM Span. The last line says how many passed.")
    ap.add_argument("--list", action="store_true", help="only print the tests and where they run")
    ap.add_argument("--filter", metavar="REGEX", help="tests whose name area/case matches")
    ap.add_argument("--tag", help="fast, slow, long or debug; default: fast and slow")
    ap.add_argument("--kernel", default="trimmed", choices=["trimmed", "debug", "stock"],
                    help="kernel of L0 and of the L1s (debug: of L0)")
    ap.add_argument("--timeout", type=float, help="for each test, in CPU seconds of the emulator")
    ap.add_argument("--failures", metavar="FILE", help="what failed is added to this file, too, a line for each")
    ap.add_argument("--jobs", type=int, default=2, help="machines side by side (default 2)")
    args = ap.parse_args()
    os.makedirs(paths.RESULTS, exist_ok=True)
    chosen = choose(cases.everything(), args)
    if args.list:
        for c in sorted(chosen, key=lambda c: c.name):
            print(f"{c.name:40} {c.topology or 'host':14} {c.modules if c.topology else '-':6} {','.join(c.tags)}")
        return 0
    prune()
    run = Run(args)
    print(f"TAP version 13\n1..{len(chosen)}", flush=True)
    queue = groups_of(chosen)
    workers = [threading.Thread(target=run.work, args=(queue, len(chosen)), daemon=True)
               for _ in range(max(1, args.jobs))]
    try:
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    except KeyboardInterrupt:
        run.stop = True
        print("# interrupted", flush=True)
        for s in list(run.stations):
            s.close()
    count = run.save()
    not_run = len(chosen) - len(run.results)
    sum_up(run, not_run, args.failures)
    if not chosen:
        print("# no test was chosen")
    print(f"# {time.monotonic() - run.started:.0f} s; details in build/results/ktap, build/results/summary.json")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped", flush=True)
    sys.stdout.flush()
    return 1 if count["failed"] or not_run or not chosen else 0
