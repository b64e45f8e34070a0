/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KTAP for one-file tests. Each test runs in a process of its own, with a
 * deadline, so that one that hangs or crashes is one "not ok" and no more.
 */
#ifndef KTAP_H
#define KTAP_H

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KTAP_SKIP_STATUS	4
#ifndef KTAP_DEADLINE
#define KTAP_DEADLINE		20	/* seconds of the machine, which may take a while */
#endif

struct ktap_test {
	const char *name;
	void (*run)(void);
};

static int ktap_failures;

static inline void ktap_note(const char *fmt, ...)
{
	va_list ap;

	printf("# ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

#define CHECK(cond, ...) ({						\
	bool ok_ = !!(cond);						\
	if (!ok_) {							\
		ktap_failures++;					\
		printf("# %s:%d: %s:", __func__, __LINE__, #cond);	\
		printf(" " __VA_ARGS__);				\
		printf("\n");						\
		fflush(stdout);						\
	}								\
	ok_;								\
})

/* The call must fail with this very error. */
#define CHECK_ERR(call, want) ({					\
	errno = 0;							\
	long r_ = (long)(call);						\
	int e_ = errno;							\
	CHECK(r_ == -1 && e_ == (want), "%s: got %ld (%s), want %s", #call, \
	      r_, r_ == -1 ? strerror(e_) : "no error", strerror(want)); \
})

/* Without this nothing that follows makes sense. */
#define MUST(call) ({							\
	errno = 0;							\
	long m_ = (long)(call);						\
	if (m_ == -1) {							\
		printf("# %s:%d: %s: %s\n", __func__, __LINE__, #call,	\
		       strerror(errno));				\
		fflush(stdout);						\
		_exit(1);						\
	}								\
	m_;								\
})

static inline void __attribute__((noreturn)) ktap_skip(const char *why)
{
	printf("# SKIP %s\n", why);
	fflush(stdout);
	_exit(KTAP_SKIP_STATUS);
}

static inline bool ktap_one(int number, const struct ktap_test *test)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		printf("not ok %d %s # fork: %s\n", number, test->name, strerror(errno));
		return false;
	}
	if (!pid) {
		alarm(KTAP_DEADLINE);
		test->run();
		fflush(stdout);
		_exit(ktap_failures ? 1 : 0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		printf("ok %d %s\n", number, test->name);
		return true;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == KTAP_SKIP_STATUS) {
		printf("ok %d %s # SKIP\n", number, test->name);
		return true;
	}
	if (WIFSIGNALED(status))
		ktap_note("%s ended by signal %d%s", test->name, WTERMSIG(status),
			  WTERMSIG(status) == SIGALRM ? " (deadline)" : "");
	printf("not ok %d %s\n", number, test->name);
	return false;
}

/* KTAP_ONLY in the environment: only tests with this in their name. */
static inline int ktap_run(const struct ktap_test *tests, int n)
{
	const char *only = getenv("KTAP_ONLY");
	bool ok = true;
	int i;

	printf("TAP version 13\n1..%d\n", n);
	for (i = 0; i < n; i++) {
		if (only && !strstr(tests[i].name, only))
			printf("ok %d %s # SKIP\n", i + 1, tests[i].name);
		else
			ok &= ktap_one(i + 1, &tests[i]);
	}
	fflush(stdout);
	return ok ? 0 : 1;
}

#define KTAP_RUN(tests) ktap_run(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
