/* SPDX-License-Identifier: GPL-2.0 */
/* A program's main() as a function, with what it printed. ktap.h comes first. */
#ifndef CAPTURED_H
#define CAPTURED_H

#include <stdarg.h>
#include <sys/mman.h>

static char output[65536];		/* standard output and error of the last run */

/* Gives the exit status; @before is called when the output is caught already. */
static int captured(int (*program)(int, char **), void (*before)(void), const char *name,
		    const char *first, va_list ap)
{
	char *argv[24] = { (char *)name, (char *)first };
	int argc = 2, out, old1, old2, status;
	ssize_t n;

	while ((argv[argc] = va_arg(ap, char *)))
		MUST(++argc < 24 ? 0 : -1);
	out = MUST(memfd_create("output", 0));
	fflush(stdout);
	old1 = MUST(dup(1));
	old2 = MUST(dup(2));
	MUST(dup2(out, 1));
	MUST(dup2(out, 2));
	before();
	status = program(argc, argv);
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

#define SAID(text) CHECK(strstr(output, text), "no '%s' in: %s", text, output)

#endif
