// SPDX-License-Identifier: GPL-2.0 OR MIT
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#define FIRST_ROOM	(16 * PAGE / sizeof(struct ooh_range))

static int make_room(struct ranges *s)
{
	size_t room = s->room ? 2 * s->room : FIRST_ROOM;
	void *p;

	if (s->n < s->room)
		return 0;
	if (!s->room)
		p = map_memory(room * sizeof(*s->r));
	else
		p = mremap(s->r, s->room * sizeof(*s->r), room * sizeof(*s->r), MREMAP_MAYMOVE);
	if (!p || p == MAP_FAILED)
		return -ENOMEM;
	s->r = p;
	s->room = room;
	return 0;
}

int ranges_add(struct ranges *s, uint64_t start, uint64_t end)
{
	struct ooh_range *last = s->n ? &s->r[s->n - 1] : NULL;

	if (start >= end)
		return 0;
	if (last && start >= last->start && start <= last->end) {
		if (end > last->end)
			last->end = end;
		return 0;
	}
	if (make_room(s))
		return -ENOMEM;
	if (s->n && start < s->r[s->n - 1].start)
		s->untidy = true;
	s->r[s->n++] = (struct ooh_range){ start, end };
	return 0;
}

static void sift_down(struct ooh_range *r, size_t i, size_t n)
{
	struct ooh_range x = r[i];
	size_t child;

	for (; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && r[child + 1].start > r[child].start)
			child++;
		if (r[child].start <= x.start)
			break;
		r[i] = r[child];
	}
	r[i] = x;
}

/* Not qsort(), which allocates. */
static void heap_sort(struct ooh_range *r, size_t n)
{
	struct ooh_range x;
	size_t i;

	for (i = n / 2; i-- > 0; )
		sift_down(r, i, n);
	for (i = n; i-- > 1; ) {
		x = r[0];
		r[0] = r[i];
		r[i] = x;
		sift_down(r, 0, i);
	}
}

void ranges_tidy(struct ranges *s)
{
	size_t i, n = 0;

	if (!s->untidy)
		return;
	heap_sort(s->r, s->n);
	for (i = 1; i < s->n; i++) {
		if (s->r[i].start > s->r[n].end)
			s->r[++n] = s->r[i];
		else if (s->r[i].end > s->r[n].end)
			s->r[n].end = s->r[i].end;
	}
	s->n = n + 1;
	s->untidy = false;
}

/* The first range that ends after @at. */
static size_t first_after(const struct ranges *s, uint64_t at)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->r[mid].end <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Takes [start, end) out, which touches the ranges from @first to before @past. */
static int cut(struct ranges *s, size_t first, size_t past, uint64_t start, uint64_t end)
{
	struct ooh_range left, right;
	size_t keep = 0;

	if (first == past)
		return 0;
	left = (struct ooh_range){ s->r[first].start, start };
	right = (struct ooh_range){ end, s->r[past - 1].end };
	if (left.start < left.end && right.start < right.end && past - first == 1 && make_room(s))
		return -ENOMEM;
	keep += left.start < left.end;
	keep += right.start < right.end;
	memmove(&s->r[first + keep], &s->r[past], (s->n - past) * sizeof(*s->r));
	s->n = s->n - (past - first) + keep;
	if (left.start < left.end)
		s->r[first++] = left;
	if (right.start < right.end)
		s->r[first] = right;
	return 0;
}

int ranges_take(struct ranges *s, uint64_t start, uint64_t end,
		struct ooh_range *to, size_t max, bool *more)
{
	size_t first = first_after(s, start), i = first, n = 0;

	*more = false;
	if (start >= end)
		return 0;
	for (; i < s->n && s->r[i].start < end; i++) {
		if (n == max) {
			*more = true;
			break;
		}
		to[n].start = s->r[i].start > start ? s->r[i].start : start;
		to[n].end = s->r[i].end < end ? s->r[i].end : end;
		n++;
	}
	if (n && cut(s, first, i, start, to[n - 1].end))
		return -ENOMEM;
	return n;
}

int ranges_drop(struct ranges *s, uint64_t start, uint64_t end)
{
	size_t first = first_after(s, start), past = first;

	if (start >= end)
		return 0;
	while (past < s->n && s->r[past].start < end)
		past++;
	return cut(s, first, past, start, end);
}

void ranges_free(struct ranges *s)
{
	if (s->room)
		munmap(s->r, s->room * sizeof(*s->r));
	*s = (struct ranges){};
}
