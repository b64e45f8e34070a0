/* SPDX-License-Identifier: GPL-2.0 */
/* spanctl as a function: its main() is part of the test, which calls it with a command line. */
#ifndef SPANCTL_RUN_H
#define SPANCTL_RUN_H

#include <ktap.h>

#include <stdarg.h>
#include <sys/mman.h>

int spanctl_main(int argc, char **argv);
#define main spanctl_main
#include "../../guest-tools/spanctl.c"
#undef main

static char output[65536];		/* standard output and error of the last run */
static void (*before_spanctl)(void);	/* set by a test that has something to put in order */

/* Gives the exit status. */
static int spanctl(const char *first, ...)
{
	char *argv[24] = { "spanctl", (char *)first };
	int argc = 2, out, old1, old2, status;
	ssize_t n;
	va_list ap;

	va_start(ap, first);
	while ((argv[argc] = va_arg(ap, char *)))
		MUST(++argc < 24 ? 0 : -1);
	va_end(ap);
	out = MUST(memfd_create("output", 0));
	fflush(stdout);
	old1 = MUST(dup(1));
	old2 = MUST(dup(2));
	MUST(dup2(out, 1));
	MUST(dup2(out, 2));
	optind = 0;
	opt = OPTIONS_NONE;
	if (before_spanctl)
		before_spanctl();
	status = spanctl_main(argc, argv);
	fflush(stdout);
	MUST(dup2(old1, 1));
	MUST(dup2(old2, 2));
	n = MUST(pread(out, output, sizeof(output) - 1, 0));
	output[n] = 0;
	close(old1);
	close(old2);
	close(out);
	return status;
}

#define EXPECT(status, ...) ({						\
	int s_ = spanctl(__VA_ARGS__, NULL);				\
	CHECK(s_ == (status), "%s: status %d: %s", #__VA_ARGS__, s_, output); \
})
#define SAID(text) CHECK(strstr(output, text), "%s", output)

#endif
