/* SPDX-License-Identifier: GPL-2.0 */
/* Ranges of pages on a command line, and what is said of a page's access. */
#ifndef PAGES_H
#define PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/span_port.h>

struct page_range {
	uint64_t first;
	uint64_t pages;		/* 0: to the end */
};

/*
 * "all", START, START+LENGTH or START-LAST. A plain number is one of pages
 * (4 KiB); one after @, or with a suffix k, M or G, is one of bytes. Pages that
 * are touched partly belong to the range. False for anything else.
 */
bool parse_range(const char *text, struct page_range *range);

/* Fit it into @pages of memory; false if it does not. */
bool clip_range(struct page_range *range, uint64_t pages);

/* "rwx" and parts of it, "none": the access, or -1. */
int parse_access(const char *text);

/* "write", "read", "execute", or "?" */
const char *access_word(uint8_t access);
/* Who did it. */
const char *source_word(uint8_t source);

/* One line without its end, for people. */
void event_text(char *text, size_t len, const struct span_watch_event *e);

#endif
