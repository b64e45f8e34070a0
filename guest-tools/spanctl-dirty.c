// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl dirty: which pages of the guest are written, and how many in a second.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "session.h"
#include "spanctl.h"
#include "watch-client.h"

#define PAGE		4096.0
#define DEFAULT_MS	1000

struct epoch {
	uint64_t number;
	double seconds;
	uint64_t pages;
	json_object *ranges;	/* NULL: not wanted */
};

struct dirty {
	struct session s;
	struct span_watch_range_out *out;
	long long since_ns;
};

static void take_range(struct epoch *e, const struct span_watch_range_out *r)
{
	json_object *pair;

	if (!e->ranges)
		return;
	pair = json_object_new_array();
	json_object_array_add(pair, json_object_new_int64(r->first));
	json_object_array_add(pair, json_object_new_int64(r->pages));
	json_object_array_add(e->ranges, pair);
}

/* All of one range of the command line. @e NULL: only forget what was written. */
static int fetch_range(struct dirty *d, const struct page_range *range, struct epoch *e)
{
	uint64_t first = range->first, end = range->first + range->pages;
	__u64 next, pages;
	int n, i;

	while (first < end) {
		n = watch_fetch(d->s.fd, first, end - first, d->out, SPAN_LOG_MAX_RANGES, &next, &pages);
		if (n < 0)
			return n;
		if (next <= first || next > end)
			return -EPROTO;
		for (i = 0; e && i < n; i++)
			take_range(e, &d->out[i]);
		if (e)
			e->pages += pages;
		first = next;
	}
	return 0;
}

static int fetch(struct dirty *d, struct epoch *e)
{
	long long now;
	int ret = 0, i;

	for (i = 0; !ret && i < d->s.ranges; i++)
		ret = fetch_range(d, &d->s.range[i], e);
	now = monotonic_ns();
	if (e)
		e->seconds = (now - d->since_ns) / 1e9;
	d->since_ns = now;
	return ret;
}

static void say_epoch_json(const struct epoch *e, double rate)
{
	json_object *j = json_object_new_object();

	json_object_object_add(j, "epoch", json_object_new_int64(e->number));
	json_object_object_add(j, "seconds", json_object_new_double(e->seconds));
	json_object_object_add(j, "pages", json_object_new_int64(e->pages));
	json_object_object_add(j, "pages_per_s", json_object_new_double(rate));
	json_object_object_add(j, "mb_per_s", json_object_new_double(rate * PAGE / 1e6));
	if (e->ranges)
		json_object_object_add(j, "ranges", json_object_get(e->ranges));
	print_json(j, JSON_C_TO_STRING_PLAIN);
}

static void say_ranges(json_object *ranges)
{
	size_t n = json_object_array_length(ranges), i;

	for (i = 0; i < n; i++) {
		json_object *pair = json_object_array_get_idx(ranges, i);
		int64_t first = json_object_get_int64(json_object_array_get_idx(pair, 0));
		int64_t pages = json_object_get_int64(json_object_array_get_idx(pair, 1));

		printf("        0x%" PRIx64 "+%" PRId64 "\n", first, pages);
	}
}

static void say_epoch(const struct epoch *e)
{
	double rate = e->seconds > 0 ? e->pages / e->seconds : 0;

	if (opt.json) {
		say_epoch_json(e, rate);
		return;
	}
	printf("%6" PRIu64 " %9.3f %9" PRIu64 " %10.0f %9.2f\n", e->number, e->seconds, e->pages,
	       rate, rate * PAGE / 1e6);
	if (e->ranges)
		say_ranges(e->ranges);
	fflush(stdout);
}

static int one_epoch(struct dirty *d, uint64_t number)
{
	struct epoch e = { .number = number };
	int ret;

	if (opt.list)
		e.ranges = json_object_new_array();
	ret = fetch(d, &e);
	if (!ret)
		say_epoch(&e);
	json_object_put(e.ranges);
	return ret;
}

static int start(struct dirty *d)
{
	int ret = 0, i;

	for (i = 0; !ret && i < d->s.ranges; i++)
		ret = watch_subscribe(d->s.fd, SPAN_ACCESS_W, SPAN_MODE_LOG,
				      d->s.range[i].first, d->s.range[i].pages);
	/* All pages are in a new log: forget that. */
	return ret ?: fetch(d, NULL);
}

static int stop(const struct dirty *d, enum wakeup why)
{
	switch (why) {
	case WAKE_DETACHED:
		return fail(-ENODEV, "%s", d->s.dev);
	case WAKE_END:
		return opt.count ? EXIT_TIMEOUT : EXIT_OK;
	default:
		return EXIT_OK;
	}
}

/* Of events there can only be some that speak of lost ones, which is of no interest here. */
static enum wakeup wait_for(struct dirty *d, long long until)
{
	struct span_watch_event event;
	enum wakeup why;

	do {
		why = session_wait(&d->s, until);
	} while (why == WAKE_EVENT && watch_read(d->s.fd, &event, 1) >= 0);
	return why == WAKE_EVENT ? WAKE_DETACHED : why;
}

static int run(struct dirty *d)
{
	long long interval = opt.interval_ms ?: DEFAULT_MS;
	uint64_t number = 0;
	enum wakeup why;
	int ret;

	ret = start(d);
	if (ret)
		return fail(ret, "%s: log of %" PRIu64 " pages", d->s.dev, d->s.pages);
	if (!opt.json) {
		printf(" EPOCH   SECONDS     PAGES    PAGES/S      MB/S\n");
		fflush(stdout);
	}
	do {
		why = wait_for(d, monotonic_ms() + interval);
		if (why != WAKE_TIME)
			return stop(d, why);
		ret = one_epoch(d, ++number);
		if (ret)
			return fail(ret, "%s: log", d->s.dev);
	} while (number != opt.count);
	return EXIT_OK;
}

int cmd_dirty(const char *dev, int argc, char **argv)
{
	struct dirty d = {};
	int ret;

	if (opt.access || opt.mode || opt.answer || opt.cancel || opt.again || opt.on_timeout ||
	    opt.deadline_us || opt.allow)
		return bad_usage("dirty has only --interval, --count, --timeout, --list and --json");
	ret = session_open(&d.s, dev, argc, argv, true);
	d.out = calloc(SPAN_LOG_MAX_RANGES, sizeof(*d.out));
	if (!ret)
		ret = d.out ? run(&d) : out_of_memory();
	free(d.out);
	session_close(&d.s);
	return ret;
}
