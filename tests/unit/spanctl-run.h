/* SPDX-License-Identifier: GPL-2.0 */
/* spanctl as a function: its main() is part of the test, which calls it with a command line. */
#ifndef SPANCTL_RUN_H
#define SPANCTL_RUN_H

#include <ktap.h>

#include "captured.h"

int spanctl_main(int argc, char **argv);
#define main spanctl_main
#include "../../guest-tools/spanctl.c"
#undef main

static void (*before_spanctl)(void);	/* set by a test that has something to put in order */

static void before_run(void)
{
	optind = 0;
	opt = OPTIONS_NONE;
	if (before_spanctl)
		before_spanctl();
}

/* Gives the exit status. */
static int spanctl(const char *first, ...)
{
	int status;
	va_list ap;

	va_start(ap, first);
	status = captured(spanctl_main, before_run, "spanctl", first, ap);
	va_end(ap);
	return status;
}

#define EXPECT(status, ...) ({						\
	int s_ = spanctl(__VA_ARGS__, NULL);				\
	CHECK(s_ == (status), "%s: status %d: %s", #__VA_ARGS__, s_, output); \
})

#endif
