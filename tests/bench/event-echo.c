// SPDX-License-Identifier: GPL-2.0
/*
 * event-echo DEVICE PAGE: in an L1, subscribe to writes of the guest to that
 * page and allow each; keeps the subscription. Prints "ready" once subscribed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/span_port.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int die(const char *what)
{
	fprintf(stderr, "event-echo: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct span_port_watch w = { .size = sizeof(w), .on_timeout = SPAN_ALLOW };
	struct span_watch_range r = {
		.size = sizeof(r), .access = SPAN_ACCESS_W, .mode = SPAN_MODE_BLOCK, .pages = 1,
	};
	struct span_watch_event e;
	int port, watch;

	if (argc != 3) {
		fprintf(stderr, "usage: event-echo DEVICE PAGE\n");
		return 2;
	}
	r.first = strtoull(argv[2], NULL, 0);
	port = open(argv[1], O_RDWR);
	if (port < 0)
		return die(argv[1]);
	watch = ioctl(port, SPAN_PORT_WATCH, &w);
	if (watch < 0)
		return die("SPAN_PORT_WATCH");
	if (ioctl(watch, SPAN_WATCH_SUBSCRIBE, &r))
		return die("SPAN_WATCH_SUBSCRIBE");
	printf("ready\n");
	fflush(stdout);
	while (read(watch, &e, sizeof(e)) == sizeof(e)) {
		struct span_watch_answer a = { .event = e.event, .verdict = SPAN_ALLOW };

		if (e.event && write(watch, &a, sizeof(a)) != sizeof(a))
			return die("answer");
	}
	return die("read");
}
