// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "session.h"
#include "spanctl.h"
#include "watch-client.h"

#define PAGE_SHIFT	12

static int parse_ranges(struct session *s, int argc, char **argv, bool all)
{
	int i;

	s->ranges = argc ?: 1;
	s->range = calloc(s->ranges, sizeof(*s->range));
	if (!s->range)
		return out_of_memory();
	if (!argc)
		return all ? EXIT_OK : bad_usage("no range of pages given");
	for (i = 0; i < argc; i++)
		if (!parse_range(argv[i], &s->range[i]))
			return bad_usage("bad range '%s'", argv[i]);
	return EXIT_OK;
}

static int fit_ranges(struct session *s, int argc, char **argv)
{
	struct span_port_info info;
	int ret, i;

	ret = port_info(s->port, &info);
	if (ret)
		return fail(ret, "%s", s->dev);
	for (i = 0; i < s->ranges; i++) {
		if (!clip_range(&s->range[i], info.bytes >> PAGE_SHIFT))
			return bad_usage("%s: '%s' is outside of the memory's %llu pages", s->dev,
					 argc ? argv[i] : "all",
					 (unsigned long long)info.bytes >> PAGE_SHIFT);
		s->pages += s->range[i].pages;
	}
	return EXIT_OK;
}

/* From now on a signal ends the command in an orderly way. */
static int catch_signals(struct session *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return fail(-errno, "signals");
	s->signals = signalfd(-1, &set, SFD_CLOEXEC);
	return s->signals < 0 ? fail(-errno, "signals") : EXIT_OK;
}

static int make_watch(struct session *s)
{
	s->fd = watch_create(s->port, opt.deadline_us, opt.on_timeout ?: SPAN_ALLOW);
	if (s->fd == -EOPNOTSUPP)
		return fail(0, "%s: this port cannot watch memory", s->dev);
	return s->fd < 0 ? fail(s->fd, "%s: making a watch", s->dev) : EXIT_OK;
}

int session_open(struct session *s, const char *dev, int argc, char **argv, bool all)
{
	int ret;

	*s = (struct session){ .dev = dev, .port = -1, .fd = -1, .signals = -1 };
	ret = parse_ranges(s, argc, argv, all);
	if (ret)
		return ret;
	s->port = port_open(dev, false);
	if (s->port < 0)
		return fail(s->port, "%s", dev);
	ret = fit_ranges(s, argc, argv);
	if (!ret)
		ret = catch_signals(s);
	if (!ret)
		ret = make_watch(s);
	s->deadline = deadline_in(-1);
	return ret;
}

void session_close(struct session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->port >= 0)
		close(s->port);
	if (s->signals >= 0)
		close(s->signals);
	free(s->range);
}

static long long earlier(long long a, long long b)
{
	if (a < 0 || b < 0)
		return a < 0 ? b : a;
	return a < b ? a : b;
}

enum wakeup session_wait(struct session *s, long long until)
{
	struct pollfd p[2] = {
		{ .fd = s->fd, .events = POLLIN },
		{ .fd = s->signals, .events = POLLIN },
	};

	for (;;) {
		if (poll(p, 2, time_left(earlier(s->deadline, until))) < 0)
			continue;	/* EINTR: a signal that is not one of ours */
		if (p[1].revents)
			return WAKE_SIGNAL;
		if (p[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			return WAKE_DETACHED;
		if (p[0].revents)
			return WAKE_EVENT;
		if (s->deadline >= 0 && !time_left(s->deadline))
			return WAKE_END;
		if (until >= 0 && !time_left(until))
			return WAKE_TIME;
	}
}

enum wakeup session_wait_input(struct session *s)
{
	struct pollfd p[3] = {
		{ .fd = s->fd, .events = 0 },
		{ .fd = s->signals, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};

	for (;;) {
		if (poll(p, 3, time_left(s->deadline)) < 0)
			continue;
		if (p[1].revents)
			return WAKE_SIGNAL;
		if (p[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			return WAKE_DETACHED;
		if (p[2].revents)
			return WAKE_INPUT;
		if (s->deadline >= 0 && !time_left(s->deadline))
			return WAKE_END;
	}
}

const char *wakeup_word(enum wakeup why)
{
	switch (why) {
	case WAKE_EVENT:
	case WAKE_TIME:
	case WAKE_INPUT:
		return "count";
	case WAKE_END:
		return "timeout";
	case WAKE_SIGNAL:
		return "signal";
	case WAKE_DETACHED:
		return "detached";
	}
	return "?";
}
