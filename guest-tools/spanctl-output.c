// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl: how it says that something went wrong, and JSON.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "spanctl.h"

struct options opt = OPTIONS_NONE;

int fail(int err, const char *format, ...)
{
	va_list ap;

	fputs("spanctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	switch (-err) {
	case 0:
		fputc('\n', stderr);
		return EXIT_FAILED;
	case ENODEV:
		fputs(": no guest is attached\n", stderr);
		return EXIT_DETACHED;
	case EACCES:
	case EPERM:
		fputs(": not granted\n", stderr);
		return EXIT_REFUSED;
	case ETIMEDOUT:
		fputs(": no answer in time\n", stderr);
		return EXIT_TIMEOUT;
	default:
		fprintf(stderr, ": %s\n", strerror(-err));
		return EXIT_FAILED;
	}
}

int bad_usage(const char *format, ...)
{
	va_list ap;

	fputs("spanctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputs("; see spanctl --help\n", stderr);
	return EXIT_USAGE;
}

int out_of_memory(void)
{
	return fail(-ENOMEM, "buffer");
}

void print_json(json_object *j, int flags)
{
	puts(json_object_to_json_string_ext(j, flags));
	fflush(stdout);
	json_object_put(j);
}
