// SPDX-License-Identifier: GPL-2.0
/*
 * flood DEVICE PAGE: in an L1, a watch that asks for writes to a page and never
 * answers what it is asked, but writes answers to anything else without pause.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/span_port.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct span_port_watch w = { .size = sizeof(w), .deadline_us = 100000, .on_timeout = SPAN_ALLOW };
	struct span_watch_range r = {
		.size = sizeof(r), .access = SPAN_ACCESS_W, .mode = SPAN_MODE_BLOCK, .pages = 1,
	};
	struct span_watch_answer a[16] = {};
	unsigned long long n = 1;
	int port, watch, i;

	if (argc != 3)
		return 2;
	r.first = strtoull(argv[2], NULL, 0);
	port = open(argv[1], O_RDWR);
	watch = ioctl(port, SPAN_PORT_WATCH, &w);
	if (port < 0 || watch < 0 || ioctl(watch, SPAN_WATCH_SUBSCRIBE, &r)) {
		fprintf(stderr, "flood: %s\n", strerror(errno));
		return 1;
	}
	fcntl(watch, F_SETFL, O_NONBLOCK);
	printf("flooding\n");
	fflush(stdout);
	for (;;) {
		for (i = 0; i < 16; i++, n += 7919) {
			/* Numbers that events do not have, half of them near ones. */
			a[i].event = (1ULL << 62) | (i & 1 ? n : n << 32);
			a[i].verdict = n & 1 ? SPAN_DENY : SPAN_ALLOW;
			a[i].flags = n & 2 ? SPAN_ANSWER_CANCEL : 0;
		}
		if (write(watch, a, sizeof(a)) < 0 && errno != EAGAIN && errno != EINTR)
			return 1;
	}
}
