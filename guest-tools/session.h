/* SPDX-License-Identifier: GPL-2.0 */
/* A watch that a command holds while it runs: opening, waiting, ending. */
#ifndef SESSION_H
#define SESSION_H

#include "pages.h"
#include "port-client.h"

struct session {
	const char *dev;
	int port, fd, signals;
	struct page_range *range;
	int ranges;
	uint64_t pages;		/* in all ranges */
	long long deadline;
};

enum wakeup {
	WAKE_EVENT,		/* the watch has something to say */
	WAKE_TIME,		/* that moment has come */
	WAKE_END,		/* the time of --timeout is over */
	WAKE_SIGNAL,		/* somebody wants us to end */
	WAKE_DETACHED,
	WAKE_INPUT,		/* a line can be read from standard input */
};

/*
 * Parse the ranges (@argc may be 0 if @all), open @dev and make a watch.
 * Returns an exit status; close in any case.
 */
int session_open(struct session *s, const char *dev, int argc, char **argv, bool all);
void session_close(struct session *s);

/* Wait for something; @until in monotonic milliseconds, -1: never. */
enum wakeup session_wait(struct session *s, long long until);

/* Wait for standard input or an end, whatever the watch has to say meanwhile. */
enum wakeup session_wait_input(struct session *s);

/* "timeout" and so on, for the last line. */
const char *wakeup_word(enum wakeup why);

#endif
