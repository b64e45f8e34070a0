/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A set of addresses: ranges that are sorted and merged once it is tidied. */
#ifndef OOH_RANGES_H
#define OOH_RANGES_H

#include <stdbool.h>
#include <stddef.h>

#include "libooh.h"

struct ranges {
	struct ooh_range *r;
	size_t n, room;
	bool untidy;	/* something was added out of order */
};

/* Quick where it comes in order. -ENOMEM. */
int ranges_add(struct ranges *s, uint64_t start, uint64_t end);
/* Sort and merge: before anything below. */
void ranges_tidy(struct ranges *s);
/*
 * Moves what lies in [start, end) to @to, at most @max of it, and returns how
 * many that were. *more: there was not room for all. -ENOMEM: a range would
 * have to be cut in two; nothing was moved.
 */
int ranges_take(struct ranges *s, uint64_t start, uint64_t end,
		struct ooh_range *to, size_t max, bool *more);
/* Drops what lies in [start, end). -ENOMEM as above. */
int ranges_drop(struct ranges *s, uint64_t start, uint64_t end);
void ranges_free(struct ranges *s);

#endif
