/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Another process, stopped for a moment by ptrace. */
#ifndef OOH_TRACEE_H
#define OOH_TRACEE_H

#include <stddef.h>
#include <sys/types.h>

struct tracee {
	pid_t pid;
	pid_t *tid;		/* threads that are stopped */
	size_t n, room;
};

/* Stops every thread. -EPERM: no right to, or a debugger has it. */
int tracee_stop(struct tracee *t, pid_t pid);
void tracee_go(struct tracee *t);

/*
 * A userfaultfd of the memory of a process that is not ours, which only the
 * process itself can make: it is stopped, makes one by a system call that it
 * did not ask for, and goes on as if nothing had been. -EOPNOTSUPP: it
 * cannot be done with this one.
 */
int tracee_userfaultfd(pid_t pid, int flags, char *why);
/* Could that work? Touches nothing. */
int tracee_may_inject(pid_t pid, char *why);

#endif
