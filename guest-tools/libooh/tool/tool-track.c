// SPDX-License-Identifier: GPL-2.0
/* ooh track, ooh run; and what a tracked process is, for ooh top too. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define FIRST_ROOM	1024
#define SHELL_SIGNAL	128	/* what a shell adds to the signal that ended a command */
#define SHELL_NOT_FOUND	127

/* Of ooh run: it may be over. If the signal comes just before a sleep, that sleep goes on for an epoch. */
static volatile bool child_ended;

long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

bool sleep_until(long long ns)
{
	struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	while (!tool_stop && !child_ended && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
	return !tool_stop && !child_ended;
}

static void on_child(int number)
{
	(void)number;
	child_ended = true;
}

static void read_name(struct target *t)
{
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", t->pid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(t->name, sizeof(t->name), f))
		t->name[strcspn(t->name, "\n")] = '\0';
	fclose(f);
}

int target_open(struct target *t, int pid)
{
	int ret;

	*t = (struct target){ .pid = pid };
	ret = ooh_open(&t->ooh, pid, &opt.open);
	if (ret)
		return ret;
	t->since_ns = now_ns();
	read_name(t);
	return 0;
}

void target_close(struct target *t)
{
	ooh_close(t->ooh);
	free(t->range);
	*t = (struct target){};
}

static int make_room(struct target *t)
{
	size_t room = t->room ? 2 * t->room : FIRST_ROOM;
	struct ooh_range *p = realloc(t->range, room * sizeof(*p));

	if (!p)
		return -ENOMEM;
	t->range = p;
	t->room = room;
	return 0;
}

/* The whole of one epoch. */
int target_fetch(struct target *t)
{
	struct ooh_epoch e;
	long long now;
	int n;

	t->n = t->pages = t->flags = 0;
	do {
		if (t->n == t->room && make_room(t))
			return -ENOMEM;
		n = ooh_fetch(t->ooh, t->range + t->n, t->room - t->n, &e);
		if (n < 0)
			return n;
		t->n += n;
		t->pages += e.pages;
		t->flags |= e.flags;
	} while (e.flags & OOH_EPOCH_MORE);
	t->epoch = e.number;
	now = now_ns();
	t->seconds = (now - t->since_ns) / 1e9;
	t->since_ns = now;
	return 0;
}

/* Epochs until the end of the process, of @opt.count or by a signal. -ESRCH: the process's. */
static int follow(struct target *t, uint64_t *left)
{
	int ret;

	while (sleep_until(t->since_ns + opt.interval * 1e9)) {
		ret = target_fetch(t);
		if (ret)
			return ret;
		say_epoch(t);
		if (t->flags & OOH_EPOCH_LAST)
			return -ESRCH;
		if (*left && !--*left)
			return 0;
	}
	return 0;
}

static void say_begin(const struct target *t)
{
	fprintf(stderr, "ooh: process %d (%s) by %s\n", t->pid, t->name, ooh_backend_name(ooh_backend(t->ooh)));
}

int cmd_track(int argc, char **argv)
{
	uint64_t left = opt.count;
	struct target t;
	char *end;
	long pid;
	int ret;

	pid = argc == 1 ? strtol(argv[0], &end, 10) : 0;
	if (pid <= 0 || pid > INT32_MAX || *end)
		return bad_usage("track wants one PID");
	ret = target_open(&t, pid);
	if (ret)
		return fail(ret, "process %ld", pid);
	say_begin(&t);
	say_to(NULL, false);
	say_head();
	ret = follow(&t, &left);
	target_close(&t);
	if (ret == -ESRCH) {
		fprintf(stderr, "ooh: process %ld has ended, or called exec\n", pid);
		return EXIT_ENDED;
	}
	ret = ret ?: say_end();
	return ret ? fail(ret, "process %ld", pid) : EXIT_OK;
}

/*
 * The command, stopped before its first instruction: what is tracked is an
 * address space, and exec makes a new one.
 */
static int start(char **argv, pid_t *pid)
{
	int status;

	*pid = fork();
	if (*pid < 0)
		return -errno;
	if (!*pid) {
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execvp(argv[0], argv);
		fprintf(stderr, "ooh: %s: %s\n", argv[0], strerror(errno));
		_exit(SHELL_NOT_FOUND);
	}
	if (waitpid(*pid, &status, 0) < 0)
		return -errno;
	if (!WIFSTOPPED(status))
		return WEXITSTATUS(status);
	/* It goes on into a stop that is not ours, and so can be seized once more. */
	if (ptrace(PTRACE_DETACH, *pid, NULL, (void *)SIGSTOP) || waitpid(*pid, &status, WUNTRACED) < 0)
		return -errno;
	return 0;
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? SHELL_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

/* -ECHILD: it has ended, and was waited for. */
static int wait_for_end(pid_t pid, int *status)
{
	child_ended = false;
	return waitpid(pid, status, WNOHANG) == pid ? -ECHILD : 0;
}

/* Track it until it ends; when it calls exec, begin anew. */
static int run_tracked(pid_t pid, int *status)
{
	struct sigaction child = { .sa_handler = on_child, .sa_flags = SA_NOCLDSTOP };
	uint64_t left = opt.count;
	struct target t;
	int ret, gone;

	sigaction(SIGCHLD, &child, NULL);

	for (;;) {
		ret = target_open(&t, pid);
		if (ret) {
			kill(pid, SIGCONT);
			return ret;
		}
		say_begin(&t);
		kill(pid, SIGCONT);
		say_head();
		do {
			ret = follow(&t, &left);
			/* What a device still has of one that has ended. */
			if (!ret && child_ended && !tool_stop && !target_fetch(&t) && t.n)
				say_epoch(&t);
			gone = wait_for_end(pid, status);
		} while (!ret && !gone && !tool_stop && (!opt.count || left));
		target_close(&t);
		if (gone || ret != -ESRCH)
			return gone ?: ret;
		if (kill(pid, 0))
			return -errno;
	}
}

int cmd_run(int argc, char **argv)
{
	int ret, status = 0;
	pid_t pid;

	if (!argc)
		return bad_usage("run wants a command");
	ret = say_to(opt.output, true);
	if (ret)
		return fail(ret, "%s", opt.output);
	ret = start(argv, &pid);
	if (ret)
		return ret < 0 ? fail(ret, "%s", argv[0]) : ret;
	ret = run_tracked(pid, &status);
	if (ret == -ECHILD)
		return exit_status(status);
	if (ret && ret != -ESRCH)
		fail(ret, "%s is not tracked", argv[0]);
	if (tool_stop)
		kill(pid, SIGTERM);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fail(-errno, "%s", argv[0]);
	return exit_status(status);
}
