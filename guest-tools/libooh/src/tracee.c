// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Threads are seized, not attached to: that sends no signal, a stopped process
 * stays stopped afterwards, and system calls that sleep are restarted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"
#include "pagemap.h"
#include "tracee.h"

#define FIRST_THREADS	(PAGE / sizeof(pid_t))
#define DIRENTS_BYTES	(8 * PAGE)

struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
};

static bool is_taken(const struct tracee *t, pid_t tid)
{
	size_t i;

	for (i = 0; i < t->n; i++)
		if (t->tid[i] == tid)
			return true;
	return false;
}

static int remember(struct tracee *t, pid_t tid)
{
	size_t room = t->room ? 2 * t->room : FIRST_THREADS;
	pid_t *p;

	if (t->n == t->room) {
		p = map_memory(room * sizeof(*p));
		if (!p)
			return -ENOMEM;
		if (t->n)
			memcpy(p, t->tid, t->n * sizeof(*p));
		unmap_memory(t->tid, t->room * sizeof(*p));
		t->tid = p;
		t->room = room;
	}
	t->tid[t->n++] = tid;
	return 0;
}

/* Waits until the thread stops since we asked it to. What else it stops for it goes on with. */
static int wait_for_stop(pid_t tid)
{
	int status;

	for (;;) {
		if (waitpid(tid, &status, __WALL) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 16 == PTRACE_EVENT_STOP)
			return 0;
		/* A signal on its way to it. */
		if (ptrace(PTRACE_CONT, tid, NULL, (void *)(long)WSTOPSIG(status)))
			return -errno;
	}
}

/* 1: taken, 0: it has been, or has ended. */
static int take(struct tracee *t, pid_t tid)
{
	int ret;

	if (is_taken(t, tid))
		return 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL))
		return errno == ESRCH ? 0 : -errno;
	ret = ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) ? -errno : wait_for_stop(tid);
	if (!ret)
		ret = remember(t, tid);
	if (!ret)
		return 1;
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
	return ret == -ESRCH || ret == -ECHILD ? 0 : ret;
}

/* Not readdir(), which allocates. */
static int take_each(struct tracee *t, int fd, char *buf)
{
	int new = 0, ret;
	long n, at;

	if (lseek(fd, 0, SEEK_SET))
		return -errno;
	while ((n = syscall(SYS_getdents64, fd, buf, DIRENTS_BYTES)) > 0)
		for (at = 0; at < n; at += ((struct dirent64_raw *)(buf + at))->len) {
			pid_t tid = atoi(((struct dirent64_raw *)(buf + at))->name);

			ret = tid ? take(t, tid) : 0;
			if (ret < 0)
				return ret;
			new += ret;
		}
	return n < 0 ? -errno : new;
}

int tracee_stop(struct tracee *t, pid_t pid)
{
	char path[32], *buf;
	int fd, ret;

	*t = (struct tracee){ .pid = pid };
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	buf = map_memory(DIRENTS_BYTES);
	/* Until a whole look finds none that could have made another. */
	do
		ret = buf ? take_each(t, fd, buf) : -ENOMEM;
	while (ret > 0);
	unmap_memory(buf, DIRENTS_BYTES);
	close(fd);
	if (!ret && !t->n)
		ret = -ESRCH;
	if (ret)
		tracee_go(t);
	return ret;
}

void tracee_go(struct tracee *t)
{
	size_t i;

	for (i = 0; i < t->n; i++)
		ptrace(PTRACE_DETACH, t->tid[i], NULL, NULL);
	unmap_memory(t->tid, t->room * sizeof(*t->tid));
	*t = (struct tracee){};
}

#ifdef __x86_64__

#define CS_64		0x33	/* of a thread that runs 64-bit code */
#define ALL_SIGNALS	(~0ULL)

struct remote {
	pid_t tid;
	uint64_t insn;		/* where it has a syscall instruction */
	struct user_regs_struct saved;
	uint64_t mask;		/* its signals */
};

/* Until the next entry to or exit from a system call. */
static int to_syscall_stop(pid_t tid)
{
	int status;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, tid, NULL, NULL))
			return -errno;
		while (waitpid(tid, &status, __WALL) < 0)
			if (errno != EINTR)
				return -errno;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return 0;
		/* It was told to stop as a process; it does when we let go of it. */
	}
}

static long remote_call(struct remote *r, long number, uint64_t arg)
{
	struct user_regs_struct regs = r->saved;
	int ret;

	regs.rip = r->insn;
	regs.rax = number;
	regs.orig_rax = -1;	/* nothing to restart */
	regs.rdi = arg;
	if (ptrace(PTRACE_SETREGS, r->tid, NULL, &regs))
		return -errno;
	ret = to_syscall_stop(r->tid) ?: to_syscall_stop(r->tid);
	if (ret)
		return ret;
	if (ptrace(PTRACE_GETREGS, r->tid, NULL, &regs))
		return -errno;
	return regs.rax;
}

static int remote_begin(struct remote *r, pid_t tid, uint64_t insn)
{
	uint64_t all = ALL_SIGNALS;

	*r = (struct remote){ .tid = tid, .insn = insn };
	if (ptrace(PTRACE_GETREGS, tid, NULL, &r->saved) ||
	    ptrace(PTRACE_GETSIGMASK, tid, (void *)sizeof(r->mask), &r->mask))
		return -errno;
	if (r->saved.cs != CS_64)
		return -EOPNOTSUPP;
	if (ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)PTRACE_O_TRACESYSGOOD) ||
	    ptrace(PTRACE_SETSIGMASK, tid, (void *)sizeof(all), &all))
		return -errno;
	return 0;
}

/*
 * To a stop at which the kernel looks for signals when it goes on, as the one
 * that we found it in was: there it restarts the call that we broke off.
 */
static void remote_end(struct remote *r)
{
	if (!ptrace(PTRACE_INTERRUPT, r->tid, NULL, NULL) && !ptrace(PTRACE_CONT, r->tid, NULL, NULL))
		wait_for_stop(r->tid);
	ptrace(PTRACE_SETREGS, r->tid, NULL, &r->saved);
	ptrace(PTRACE_SETSIGMASK, r->tid, (void *)sizeof(r->mask), &r->mask);
}

static int see_vdso(void *opaque, const struct mapping *m)
{
	struct mapping *vdso = opaque;

	if (strcmp(m->name, "[vdso]"))
		return 0;
	*vdso = *m;
	return 1;
}

/* Where the process has a syscall instruction; 0: not found. */
static uint64_t find_insn(pid_t pid)
{
	struct mapping vdso = {};
	char path[32], *code;
	uint64_t found = 0;
	ssize_t n, i;
	int fd;

	if (maps_each(pid, see_vdso, &vdso) != 1)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	code = map_memory(vdso.end - vdso.start);
	n = code ? pread(fd, code, vdso.end - vdso.start, vdso.start) : 0;
	for (i = 0; !found && i + 1 < n; i++)
		if (code[i] == 0x0f && code[i + 1] == 0x05)
			found = vdso.start + i;
	unmap_memory(code, vdso.end - vdso.start);
	close(fd);
	return found;
}

int tracee_may_inject(pid_t pid, char *why)
{
	long seccomp = status_number(pid, "Seccomp"), tracer = status_number(pid, "TracerPid");

	if (seccomp == -ESRCH)
		return say_why(why, -ESRCH, "process %d", pid);
	if (seccomp > 0)
		return say_why(why, -EOPNOTSUPP, "process %d has a seccomp filter, which might kill it", pid);
	if (tracer > 0)
		return say_why(why, -EPERM, "process %d is traced by %ld", pid, tracer);
	if (!find_insn(pid))
		return say_why(why, -EOPNOTSUPP, "the vDSO of process %d cannot be read, or there is none", pid);
	return 0;
}

/* The process's descriptor @remote_fd as one of ours. */
static int fetch_fd(pid_t pid, int remote_fd)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0), fd;

	if (pidfd < 0)
		return -errno;
	fd = syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0);
	if (fd < 0)
		fd = -errno;
	close(pidfd);
	return fd;
}

static int inject(pid_t pid, pid_t tid, uint64_t insn, int flags, char *why)
{
	struct remote r;
	int ret, fd = -1;
	long theirs;

	ret = remote_begin(&r, tid, insn);
	if (ret)
		return say_why(why, ret, "process %d takes no system call from us", pid);
	theirs = remote_call(&r, SYS_userfaultfd, flags);
	if (theirs >= 0) {
		fd = fetch_fd(pid, theirs);
		/* Its number is free again before the process goes on. */
		remote_call(&r, SYS_close, theirs);
	}
	remote_end(&r);
	if (theirs < 0)
		return say_why(why, theirs, "userfaultfd in process %d", pid);
	return fd < 0 ? say_why(why, fd, "userfaultfd of process %d", pid) : fd;
}

int tracee_userfaultfd(pid_t pid, int flags, char *why)
{
	sigset_t all, before;
	struct tracee t;
	uint64_t insn;
	int ret;

	ret = tracee_may_inject(pid, why);
	if (ret)
		return ret;
	insn = find_insn(pid);
	/* If we ended while it has our registers, it would go on with them. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	/* All of it, so that no fork takes the descriptor along. */
	ret = tracee_stop(&t, pid);
	if (ret) {
		say_why(why, ret, "process %d cannot be stopped", pid);
	} else {
		ret = inject(pid, t.tid[0], insn, flags, why);
		tracee_go(&t);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

#else

int tracee_may_inject(pid_t pid, char *why)
{
	return say_why(why, -EOPNOTSUPP, "process %d is not this one, and only x86-64 can help it to a userfaultfd", pid);
}

int tracee_userfaultfd(pid_t pid, int flags, char *why)
{
	(void)flags;
	return tracee_may_inject(pid, why);
}

#endif
