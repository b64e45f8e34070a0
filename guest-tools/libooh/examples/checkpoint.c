/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Copy what changed: a program keeps a copy of a piece of its own memory up
 * to date, and copies only the pages that were written since it did so before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <libooh.h>

#define BYTES	(4u << 20)
#define ROOM	64		/* small, to show what is done when it is not enough */

static int update(struct ooh *ooh, char *memory, char *copy)
{
	struct ooh_range range[ROOM];
	struct ooh_epoch epoch;
	int i, n, pages = 0;

	do {
		n = ooh_fetch_in(ooh, (uintptr_t)memory, (uintptr_t)memory + BYTES, range, ROOM, &epoch);
		if (n < 0)
			return n;
		for (i = 0; i < n; i++)
			memcpy(copy + (range[i].start - (uintptr_t)memory), (char *)(uintptr_t)range[i].start,
			       range[i].end - range[i].start);
		pages += epoch.pages;
	} while (epoch.flags & OOH_EPOCH_MORE);
	return pages;
}

int main(void)
{
	char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *copy = malloc(BYTES);
	struct ooh *ooh;
	int i, round, ret;

	if (memory == MAP_FAILED || !copy)
		return 1;
	memset(memory, 1, BYTES);
	memcpy(copy, memory, BYTES);
	ret = ooh_open(&ooh, 0, NULL);
	if (ret < 0) {
		fprintf(stderr, "ooh_open: %s\n", strerror(-ret));
		return 1;
	}
	printf("by %s\n", ooh_backend_name(ooh_backend(ooh)));
	/* Between the copy and the open nothing was written; else: ooh_clear() before the copy. */
	for (round = 1; round <= 3; round++) {
		for (i = 0; i < 100 * round; i++)
			memory[(size_t)rand() % BYTES] = round;
		ret = update(ooh, memory, copy);
		if (ret < 0) {
			fprintf(stderr, "ooh_fetch: %s\n", strerror(-ret));
			return 1;
		}
		printf("round %d: %d pages of %u copied, the copy is %s\n", round, ret, BYTES / 4096,
		       memcmp(memory, copy, BYTES) ? "WRONG" : "right");
		if (memcmp(memory, copy, BYTES))
			return 1;
	}
	ooh_close(ooh);
	return 0;
}
