// SPDX-License-Identifier: GPL-2.0
/*
 * The Boehm GC with a heap of MIB that mostly stays as it is: how long its mark
 * phases take, and everything together, in generational mode by whatever tells
 * it of written pages (OOH_BACKEND, GC_USE_OOH, GC_USE_GETWRITEWATCH), or
 * without ("full").
 *
 *   gc-cost MIB ROUNDS [full]       NAME VALUE a line
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gc.h>

#define NODE_BYTES	64
#define GARBAGE		4	/* of each part of the heap's size that is changed, so much is allocated and forgotten */

struct node {
	struct node *child[2];
	uint64_t value[NODE_BYTES / 8 - 2];
};

static uint64_t mark_from, mark_sum, mark_most, marks;

static inline uint64_t cycles(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) :: "memory");
	return (uint64_t)hi << 32 | lo;
}

/* The world is stopped from the one event to the other: the dirty bits are read in between. */
static void on_event(GC_EventType event)
{
	uint64_t t;

	if (event == GC_EVENT_PRE_STOP_WORLD)
		mark_from = cycles();
	if (event != GC_EVENT_POST_START_WORLD || !mark_from)
		return;
	t = cycles() - mark_from;
	mark_sum += t;
	mark_most = t > mark_most ? t : mark_most;
	marks++;
}

static struct node *tree(int depth)
{
	struct node *n = GC_MALLOC(sizeof(*n));

	if (!n)
		abort();
	if (depth) {
		n->child[0] = tree(depth - 1);
		n->child[1] = tree(depth - 1);
	}
	return n;
}

/* Somewhere in the tree, two children change places; down to the leaves, so that most of the tree is not written. */
static void change(struct node *root, int depth, uint64_t x)
{
	struct node *n = root, *c;
	int i;

	for (i = 0; i < depth - 2; i++, x >>= 1)
		n = n->child[x & 1];
	c = n->child[0];
	n->child[0] = n->child[1];
	n->child[1] = c;
	n->value[0]++;
}

static uint64_t count(const struct node *n)
{
	return n ? 1 + count(n->child[0]) + count(n->child[1]) : 0;
}

int main(int argc, char **argv)
{
	uint64_t x = 88172645463325252ULL, t, mib, nodes = 0;
	int rounds, depth = 0, i, j;
	struct node *root;

	if (argc < 3) {
		fprintf(stderr, "usage: gc-cost MIB ROUNDS [full]\n");
		return 2;
	}
	mib = strtoul(argv[1], NULL, 0);
	rounds = atoi(argv[2]);
	GC_INIT();
	while ((2ULL << depth) * NODE_BYTES <= mib << 20)
		depth++;
	root = tree(depth - 1);
	if (argc < 4)
		GC_enable_incremental();
	/* No full collection, none that stops half-way: each marks from the written pages, once. */
	GC_set_full_freq(1 << 20);
	GC_set_time_limit(GC_TIME_UNLIMITED);
	/* Often, so that there are some to measure. */
	GC_set_free_space_divisor(20);
	GC_gcollect();
	GC_set_on_collection_event(on_event);
	t = cycles();
	for (i = 0; i < rounds; i++) {
		for (j = 0; j < 100; j++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			change(root, depth - 1, x);
		}
		for (j = 0; j < (int)((mib << 20) / NODE_BYTES / 100 * GARBAGE); j++)
			if (!GC_MALLOC(NODE_BYTES))
				abort();
	}
	t = cycles() - t;
	GC_set_on_collection_event(0);
	nodes = count(root);
	printf("total %lu\nmark_sum %lu\nmark_most %lu\nmarks %lu\nheap_kib %lu\nincremental %d\n", t, mark_sum, mark_most, marks,
	       (unsigned long)GC_get_heap_size() / 1024, GC_is_incremental_mode());
	if (nodes != (1ULL << depth) - 1) {
		printf("error %lu nodes, not %llu\n", nodes, (1ULL << depth) - 1);
		return 1;
	}
	return 0;
}
