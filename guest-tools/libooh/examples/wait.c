/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Wait until another process writes, and say where. By poll(), where the
 * back-end has a descriptor for it; ooh_wait() does it everywhere.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libooh.h>

#define ROOM	256

static void log_line(void *opaque, const char *line)
{
	(void)opaque;
	fprintf(stderr, "%s\n", line);
}

static int wait_for_write(struct ooh *ooh)
{
	struct pollfd p = { .fd = ooh_fd(ooh), .events = POLLIN };

	if (p.fd < 0)
		return ooh_wait(ooh, -1);
	return poll(&p, 1, -1) < 0 ? -errno : 1;
}

int main(int argc, char **argv)
{
	struct ooh_options options = { .log = log_line };
	struct ooh_range range[ROOM];
	struct ooh_epoch epoch;
	struct ooh *ooh;
	int i, n, left;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s PID [TIMES]\n", argv[0]);
		return 1;
	}
	left = argc == 3 ? atoi(argv[2]) : 1;
	n = ooh_open(&ooh, atoi(argv[1]), &options);
	if (n < 0) {
		fprintf(stderr, "process %s: %s\n", argv[1], strerror(-n));
		return 1;
	}
	printf("waiting, by %s\n", ooh_backend_name(ooh_backend(ooh)));
	while (left-- > 0) {
		n = wait_for_write(ooh);
		if (n < 0)
			break;
		do {
			n = ooh_fetch(ooh, range, ROOM, &epoch);
			for (i = 0; i < n; i++)
				printf("%" PRIx64 "-%" PRIx64 "\n", range[i].start, range[i].end);
		} while (n >= 0 && epoch.flags & OOH_EPOCH_MORE);
		if (n < 0)
			break;
		printf("epoch %" PRIu64 " done\n", epoch.number);
	}
	ooh_close(ooh);
	if (n == -ESRCH)
		printf("it has ended\n");
	else if (n < 0)
		fprintf(stderr, "%s\n", strerror(-n));
	return n < 0;
}
