// SPDX-License-Identifier: GPL-2.0
/*
 * transfer-tsc SOCKET TO [VCPU...]: one span-transfer of span0 by the monitor at
 * SOCKET, all of the guest or these vCPUs. Prints how far the TSC went from
 * sending the command to the event that says how it ended, and that event:
 *
 *	tsc 1234567 {"event": "SPAN_TRANSFER", ...}
 *
 * By a program on L0, so that the host is not in it.
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

static void die(const char *what)
{
	fprintf(stderr, "transfer-tsc: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int monitor(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (strlen(path) >= sizeof(sa.sun_path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	strcpy(sa.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		die(path);
	return fd;
}

/* The next line that has all of these words; errors end the program. */
static const char *line_with(FILE *f, const char *a, const char *b)
{
	static char line[1 << 16];

	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "\"error\"")) {
			fputs(line, stderr);
			exit(1);
		}
		if (strstr(line, a) && strstr(line, b))
			return line;
	}
	die("the monitor ended");
	return NULL;
}

int main(int argc, char **argv)
{
	char command[512], list[128] = "";
	const char *end;
	uint64_t t;
	int i, fd;
	FILE *f;

	if (argc < 3) {
		fprintf(stderr, "usage: transfer-tsc SOCKET TO [VCPU...]\n");
		return 2;
	}
	for (i = 3; i < argc && strlen(list) < sizeof(list) - 8; i++)
		sprintf(list + strlen(list), "%s%d", i > 3 ? "," : "", atoi(argv[i]));
	snprintf(command, sizeof(command), "{\"execute\": \"span-transfer\", \"arguments\": "
		 "{\"guest\": \"span0\", \"to\": \"%s\"%s%s%s}}", argv[2],
		 list[0] ? ", \"vcpus\": [" : "", list, list[0] ? "]" : "");
	fd = monitor(argv[1]);
	f = fdopen(fd, "r");
	if (!f)
		die("fdopen");
	dprintf(fd, "{\"execute\": \"qmp_capabilities\"}\n");
	line_with(f, "\"return\"", "");
	t = __rdtsc();
	dprintf(fd, "%s\n", command);
	do {
		end = line_with(f, "\"SPAN_TRANSFER\"", "");
	} while (!strstr(end, "\"completed\"") && !strstr(end, "\"failed\"") && !strstr(end, "\"cancelled\""));
	printf("tsc %lu %s", (unsigned long)(__rdtsc() - t), end);
	return !strstr(end, "\"completed\"");
}
