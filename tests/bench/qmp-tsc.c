// SPDX-License-Identifier: GPL-2.0
/*
 * qmp-tsc SOCKET COMMAND...: run QMP commands one after the other and print
 * for each how far the TSC went from sending it to its answer, and the answer:
 *
 *	tsc 123456 {"return": {}}
 *
 * On the emulated machine the TSC counts instructions. Events that arrive
 * meanwhile are skipped. Exit status 1 when a command failed.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <x86intrin.h>

static char line[1 << 16];
static size_t have;

static void die(const char *what)
{
	fprintf(stderr, "qmp-tsc: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* The next line from the monitor, without its end; valid until the next call. */
static char *next_line(int fd)
{
	static size_t used;
	char *end;
	ssize_t n;

	memmove(line, line + used, have - used);
	have -= used;
	used = 0;
	while (!(end = memchr(line, '\n', have))) {
		if (have == sizeof(line) - 1) {
			errno = EMSGSIZE;
			die("answer");
		}
		n = read(fd, line + have, sizeof(line) - 1 - have);
		if (n <= 0) {
			if (!n)
				errno = ECONNRESET;
			die("read");
		}
		have += n;
	}
	used = end - line + 1;
	if (end > line && end[-1] == '\r')
		end--;
	*end = '\0';
	return line;
}

static char *answer(int fd)
{
	char *l;

	do {
		l = next_line(fd);
	} while (strncmp(l, "{\"return\"", 9) && strncmp(l, "{\"error\"", 8));
	return l;
}

static void put(int fd, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0)
			die("write");
		text += n;
		len -= n;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd, i, failed = 0;

	if (argc < 3 || strlen(argv[1]) >= sizeof(sa.sun_path)) {
		fprintf(stderr, "usage: qmp-tsc SOCKET COMMAND...\n");
		return 2;
	}
	strcpy(sa.sun_path, argv[1]);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		die(argv[1]);
	next_line(fd);
	put(fd, "{\"execute\": \"qmp_capabilities\"}\n");
	answer(fd);
	for (i = 2; i < argc; i++) {
		uint64_t t = __rdtsc();
		char *l;

		put(fd, argv[i]);
		put(fd, "\n");
		l = answer(fd);
		t = __rdtsc() - t;
		printf("tsc %llu %s\n", (unsigned long long)t, l);
		failed |= !strncmp(l, "{\"error\"", 8);
	}
	return failed;
}
