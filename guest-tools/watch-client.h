/* SPDX-License-Identifier: GPL-2.0 */
/* What a program needs of a watch fd. All functions return -errno on failure. */
#ifndef WATCH_CLIENT_H
#define WATCH_CLIENT_H

#include <stddef.h>

#include <linux/span_port.h>

/* A watch on an open port; deadline 0: the default. Returns a descriptor. */
int watch_create(int port, __u32 deadline_us, __u32 on_timeout);

int watch_subscribe(int fd, __u32 access, __u32 mode, __u64 first, __u64 pages);
int watch_unsubscribe(int fd, __u32 access, __u64 first, __u64 pages);
int watch_protect(int fd, __u32 access, __u64 first, __u64 pages);

/* Up to @max events; returns how many. @fd decides whether it waits. */
int watch_read(int fd, struct span_watch_event *events, size_t max);
int watch_answer(int fd, __u64 event, __u32 verdict, __u32 flags);
int watch_info(int fd, struct span_watch_info *info);

/*
 * Fetch the log of [first, first + pages) once: fills @out, and *next and *dirty;
 * returns the number of ranges.
 */
int watch_fetch(int fd, __u64 first, __u64 pages, struct span_watch_range_out *out,
		__u32 max, __u64 *next, __u64 *dirty);

#endif
