// SPDX-License-Identifier: GPL-2.0
/*
 * libooh on a made-up /dev/ooh: sets of ranges against a bitmap, epochs whose
 * records do not fit the ring or the caller's array, what goes wrong.
 */
#include "fake-ooh.h"

#include <fcntl.h>
#include <poll.h>

#include "pagemap.h"

static struct ooh *spml(void)
{
	struct ooh_options o = { .backend = OOH_SPML };
	struct ooh *h = NULL;
	int ret;

	ret = ooh_open(&h, 0, &o);
	if (!CHECK(!ret && h, "%d", ret))
		_exit(1);
	return h;
}

/* Random ranges, and pieces taken out of them, beside a bitmap that has the same done to it. */
static void t_ranges(void)
{
	static bool model[512];
	struct ranges s = {};
	int round, i;

	srandom(1);
	for (round = 0; round < 3000; round++) {
		unsigned int a = random() % 512, n = random() % 12, b = a + n > 512 ? 512 : a + n;

		if (random() % 8) {
			CHECK(!ranges_add(&s, BASE + a * PAGE, BASE + b * PAGE), "add");
			for (i = a; i < (int)b; i++)
				model[i] = true;
		} else {
			struct ooh_range got[4];
			bool more = true;
			int k;

			ranges_tidy(&s);
			while (more) {
				k = ranges_take(&s, BASE + a * PAGE, BASE + b * PAGE, got, 4, &more);
				if (!CHECK(k >= 0, "%d", k))
					return;
				for (i = 0; i < k; i++) {
					uint64_t p = (got[i].start - BASE) / PAGE, q = (got[i].end - BASE) / PAGE;

					CHECK(p >= a && q <= b && p < q, "%d: outside", round);
					for (; p < q; p++) {
						CHECK(model[p], "%d: page %d was not in it", round, (int)p);
						model[p] = false;
					}
				}
			}
			for (i = a; i < (int)b; i++)
				CHECK(!model[i], "%d: page %d was left", round, i);
		}
		ranges_tidy(&s);
		for (i = 1; i < (int)s.n; i++)
			CHECK(s.r[i].start > s.r[i - 1].end, "%d: not sorted and merged at %d", round, i);
	}
	ranges_free(&s);
}

static void t_drop(void)
{
	struct ranges s = {};

	ranges_add(&s, BASE, BASE + 10 * PAGE);
	CHECK(!ranges_drop(&s, BASE + 3 * PAGE, BASE + 5 * PAGE), "drop");
	CHECK(s.n == 2 && s.r[0].end == BASE + 3 * PAGE && s.r[1].start == BASE + 5 * PAGE, "%zu", s.n);
	CHECK(!ranges_drop(&s, 0, ~0ULL) && !s.n, "%zu left", s.n);
	ranges_free(&s);
}

static void t_one_epoch(void)
{
	struct ooh_range r[4];
	struct ooh_epoch e;
	struct ooh *h;

	dev_reset();
	h = spml();
	CHECK(dev.track_flags == OOH_F_SPML && !dev.track_pid, "%x %d", dev.track_flags, dev.track_pid);
	CHECK(ooh_backend(h) == OOH_SPML && ooh_fd(h) == FAKE_FD, "%d", ooh_fd(h));
	CHECK(ooh_fetch(h, r, 4, &e) == 0 && e.number == 1 && !e.pages && !e.flags, "%d", (int)e.number);
	dev.dirty[5] = dev.dirty[6] = dev.dirty[9] = true;
	CHECK(ooh_fetch(h, r, 4, &e) == 2 && e.number == 2 && e.pages == 3, "%d pages", (int)e.pages);
	CHECK(r[0].start == BASE + 5 * PAGE && r[0].end == BASE + 7 * PAGE && r[1].start == BASE + 9 * PAGE, "wrong ranges");
	CHECK(ooh_fetch(h, r, 4, NULL) == 0, "reported twice");
	ooh_close(h);
	CHECK(dev.opened == dev.closed && !dev.mapped, "%d opened, %d closed, %d mapped", dev.opened, dev.closed, dev.mapped);
}

/* More ranges than the ring holds, more than the caller takes at once. */
static void t_full(void)
{
	static const size_t rooms[] = { 1, 3, 8, 100, 5000 };
	struct ooh_range r[5000];
	struct ooh_epoch e;
	struct ooh *h;
	size_t room;
	int i, n;

	dev_reset();
	h = spml();
	for (room = 0; room < sizeof(rooms) / sizeof(rooms[0]); room++) {
		uint64_t pages = 0, last = 0;
		int fetches = dev.fetches, calls = 0;

		for (i = 0; i < PAGES; i += 3)
			dev.dirty[i] = true;
		do {
			n = ooh_fetch(h, r, rooms[room], &e);
			if (!CHECK(n >= 0 && n <= (int)rooms[room], "%d", n))
				return;
			for (i = 0; i < n; i++) {
				CHECK(r[i].start >= last, "not sorted over the calls");
				last = r[i].end;
			}
			CHECK(e.number == room + 1, "epoch %d, not %zu", (int)e.number, room + 1);
			pages += e.pages;
			calls++;
		} while (e.flags & OOH_EPOCH_MORE);
		CHECK(pages == (PAGES + 2) / 3, "%d pages", (int)pages);
		CHECK(calls == (int)((pages + rooms[room] - 1) / rooms[room]), "%d calls", calls);
		CHECK(dev.fetches - fetches == (int)((pages + RING_RECORDS - 1) / RING_RECORDS), "%d fetches", dev.fetches - fetches);
	}
	ooh_close(h);
}

/* What lies outside of the range that was asked for stays; another range ends the epoch under way. */
static void t_part(void)
{
	struct ooh_range r[2];
	struct ooh_epoch e;
	struct ooh *h;

	dev_reset();
	h = spml();
	dev.dirty[1] = dev.dirty[3] = dev.dirty[5] = dev.dirty[100] = true;
	CHECK(ooh_fetch_in(h, BASE, BASE + 10 * PAGE, r, 2, &e) == 2 && e.flags == OOH_EPOCH_MORE, "%x", e.flags);
	CHECK(dev.dirty[100], "fetched more than was asked for");
	CHECK(ooh_wait(h, 0) == 1, "something waits");
	CHECK(ooh_fetch_in(h, BASE, BASE + 6 * PAGE, r, 2, &e) == 1 && e.number == 2 && r[0].start == BASE + 5 * PAGE, "rest lost");
	CHECK(ooh_fetch(h, r, 2, &e) == 1 && e.number == 3 && r[0].start == BASE + 100 * PAGE, "the other lost");
	dev.dirty[7] = true;
	CHECK(!ooh_clear(h) && ooh_fetch(h, r, 2, &e) == 0, "not cleared");
	ooh_close(h);
}

static void t_trouble(void)
{
	struct ooh_counters c;
	struct ooh_range r[4];
	struct ooh_epoch e;
	struct ooh *h;

	dev_reset();
	h = spml();
	dev.interrupts = 3;
	dev.dirty[2] = true;
	CHECK(ooh_fetch(h, r, 4, &e) == 1 && dev.fetches == 4, "%d fetches", dev.fetches);
	dev.lost = true;
	dev.dirty[2] = true;
	CHECK(ooh_fetch(h, r, 4, &e) == 1 && e.flags == OOH_EPOCH_LOST, "%x", e.flags);
	dev.fetch_error = -EIO;
	CHECK(ooh_fetch(h, r, 4, &e) == -EIO, "an error is told");
	dev.fetch_error = 0;
	dev.poll_events = 0;
	CHECK(ooh_wait(h, 10) == 0, "nothing was written");
	dev.poll_events = POLLIN;
	CHECK(ooh_wait(h, 10) == 1, "something was");
	dev.poll_events = POLLHUP;
	CHECK(ooh_wait(h, 10) == 1, "the end is to be fetched");
	dev.poll_events = POLLERR;
	CHECK(ooh_wait(h, 10) == -EIO, "error");
	dev.last = true;
	dev.dirty[7] = true;
	CHECK(ooh_fetch(h, r, 4, &e) == 1 && e.flags == OOH_EPOCH_LAST, "%x", e.flags);
	CHECK(ooh_fetch(h, r, 4, &e) == -ESRCH, "it has ended");
	CHECK(!ooh_counters(h, &c) && c.epochs == 3 && c.pages == 3 && c.lost == 1 && c.new_pages == 11 &&
	      c.untracked == 12 && c.overflows == 13, "counters");
	dev.ring->head = dev.ring->tail + RING_RECORDS + 1;
	CHECK(ooh_fetch(h, r, 4, &e) == -EPROTO, "a ring that lies");
	ooh_close(h);
}

static char said[OOH_BACKENDS][160];
static int n_said;

static void log_line(void *opaque, const char *line)
{
	CHECK(opaque == said, "%p", opaque);
	snprintf(said[n_said++ % OOH_BACKENDS], sizeof(said[0]), "%s", line);
}

static int try_spml(void)
{
	struct ooh_options o = { .backend = OOH_SPML, .log = log_line, .opaque = said };
	struct ooh *h = NULL;
	int ret = ooh_open(&h, 0, &o);

	CHECK(!ret == !!h, "%d %p", ret, h);
	ooh_close(h);
	CHECK(dev.opened == dev.closed && !dev.mapped, "%d opened, %d closed, %d mapped", dev.opened, dev.closed, dev.mapped);
	return ret;
}

static void t_refused(void)
{
	struct ooh_capabilities c;

	dev_reset();
	CHECK(!try_spml(), "works");
	dev.open_error = -ENOENT;
	CHECK(try_spml() == -EOPNOTSUPP && strstr(said[0], "no spml: /dev/ooh is not there"), "%s", said[0]);
	CHECK(!ooh_capabilities(0, &c) && !(c.backends & (1 << OOH_SPML)) && strstr(c.why_not[OOH_SPML], "not there"), "caps");
	dev.open_error = -EACCES;
	CHECK(try_spml() == -EACCES, "no right to the device");
	dev_reset();
	dev.abi = OOH_ABI + 1;
	CHECK(try_spml() == -EOPNOTSUPP, "another ABI");
	dev_reset();
	dev.features = OOH_F_EPML;
	CHECK(try_spml() == -EOPNOTSUPP, "no SPML");
	CHECK(!ooh_capabilities(0, &c) && c.best == OOH_EPML && c.module_abi == OOH_ABI, "best %d", c.best);
	dev_reset();
	dev.track_error = -EPERM;
	CHECK(try_spml() == -EPERM, "not that process");
	dev_reset();
	dev.ring_size = 7;
	CHECK(try_spml() == -EPROTO, "a ring whose size is no power of two");
	dev.ring_size = 512;
	CHECK(try_spml() == -EPROTO, "a ring that is longer than what is mapped");
	dev.ring_size = 0;
	CHECK(try_spml() == -EPROTO, "no ring");
}

/* OOH_AUTO takes the best, and says why not a better one. */
static void t_automatic(void)
{
	struct ooh_options o = { .log = log_line, .opaque = said, .ring_order = 3 };
	struct ooh *h = NULL;

	dev_reset();
	CHECK(!ooh_open(&h, 0, &o) && ooh_backend(h) == OOH_SPML && dev.ring_order == 3, "%d", ooh_backend(h));
	CHECK(n_said == 1 && strstr(said[0], "no epml: the host"), "%d: %s", n_said, said[0]);
	CHECK(strstr(ooh_why_not(h, OOH_EPML), "the host") && !*ooh_why_not(h, OOH_SPML), "%s", ooh_why_not(h, OOH_EPML));
	ooh_close(h);
	dev.features = OOH_F_EPML | OOH_F_SPML;
	CHECK(!ooh_open(&h, 0, NULL) && ooh_backend(h) == OOH_EPML && dev.track_flags == OOH_F_EPML, "%d", ooh_backend(h));
	ooh_close(h);
	setenv("OOH_BACKEND", "spml", 1);
	CHECK(!ooh_open(&h, 0, NULL) && ooh_backend(h) == OOH_SPML, "%d", ooh_backend(h));
	ooh_close(h);
	setenv("OOH_BACKEND", "rubbish", 1);
	CHECK(ooh_open(&h, 0, NULL) == -EINVAL && !h, "an unknown name is an error");
	unsetenv("OOH_BACKEND");
	dev.track_error = -ESRCH;
	CHECK(ooh_open(&h, 0, NULL) == -ESRCH, "who is not there is not tried with another");
}

static void t_bad_arguments(void)
{
	struct ooh_options o = { .backend = OOH_BACKENDS };
	struct ooh_range r[1];
	struct ooh *h = NULL;

	dev_reset();
	CHECK(ooh_open(NULL, 0, NULL) == -EINVAL && ooh_open(&h, -1, NULL) == -EINVAL, "arguments");
	CHECK(ooh_open(&h, 0, &o) == -EINVAL, "back-end");
	o = (struct ooh_options){ .flags = 1u << 31 };
	CHECK(ooh_open(&h, 0, &o) == -EINVAL, "flags");
	o = (struct ooh_options){ .reserved = 1 };
	CHECK(ooh_open(&h, 0, &o) == -EINVAL, "reserved");
	h = spml();
	CHECK(ooh_fetch(h, r, 0, NULL) == -EINVAL && ooh_fetch(h, NULL, 1, NULL) == -EINVAL && ooh_fetch(NULL, r, 1, NULL) == -EINVAL, "fetch");
	CHECK(ooh_fetch_in(h, PAGE, PAGE, r, 1, NULL) == -EINVAL && ooh_fetch_in(h, 1, PAGE, r, 1, NULL) == -EINVAL, "range");
	CHECK(ooh_clear(NULL) == -EINVAL && ooh_wait(NULL, 0) == -EINVAL && ooh_fd(NULL) == -EINVAL, "no handle");
	CHECK(ooh_counters(h, NULL) == -EINVAL && ooh_capabilities(0, NULL) == -EINVAL && ooh_capabilities(-1, NULL) == -EINVAL, "no place");
	CHECK(!dev.fetches, "%d fetches", dev.fetches);
	ooh_close(h);
	ooh_close(NULL);
}

/* /proc/PID/maps read, and asked for one mapping after the other. */
struct one_map {
	struct mapping m;
	int n;
};

static int take_map(void *opaque, const struct mapping *m)
{
	struct one_map *o = opaque;

	o->m = *m;
	o->n++;
	return 0;
}

static int compare_map(void *opaque, const struct mapping *m)
{
	struct one_map o = {};
	int fd = *(int *)opaque, ret;

	if (m->start >> 63)
		return 0;
	ret = maps_in(fd, m->start, m->end, take_map, &o);
	if (ret == -ENOTTY)
		ktap_skip("this kernel has no ioctl for it");
	CHECK(!ret && o.n == 1 && o.m.start == m->start && o.m.end == m->end &&
	      (o.m.perms[1] == 'w') == (m->perms[1] == 'w'), "%s: %d, %d mappings", m->name, ret, o.n);
	return 0;
}

static void t_maps(void)
{
	int fd = MUST(open("/proc/self/maps", O_RDONLY));
	char *hole = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct one_map o = {};

	CHECK(maps_in(-1, 0, PAGE, take_map, &o) == -EBADF, "no file");
	CHECK(!maps_each(getpid(), compare_map, &fd), "maps");
	munmap(hole + PAGE, PAGE);
	CHECK(!maps_in(fd, (uintptr_t)hole + PAGE, (uintptr_t)hole + 2 * PAGE, take_map, &o) && !o.n, "%d mappings in a hole", o.n);
	CHECK(!maps_in(fd, (1ULL << 47) - 2 * PAGE, 1ULL << 47, take_map, &o) && !o.n, "%d mappings at the end", o.n);
	CHECK(maps_each(99999999, take_map, &o) == -ESRCH, "nobody's");
}

static void t_names(void)
{
	int i;

	for (i = 0; i < OOH_BACKENDS; i++)
		CHECK(ooh_backend_by_name(ooh_backend_name(i)) == i, "%d", i);
	CHECK(ooh_backend_by_name("") == -EINVAL && ooh_backend_by_name(NULL) == -EINVAL, "no name");
	CHECK(!strcmp(ooh_backend_name(99), "unknown"), "99");
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "ranges", t_ranges },
		{ "drop", t_drop },
		{ "one-epoch", t_one_epoch },
		{ "full", t_full },
		{ "part", t_part },
		{ "trouble", t_trouble },
		{ "refused", t_refused },
		{ "automatic", t_automatic },
		{ "bad-arguments", t_bad_arguments },
		{ "maps", t_maps },
		{ "names", t_names },
	};

	return KTAP_RUN(tests);
}
