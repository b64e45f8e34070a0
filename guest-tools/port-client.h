/* SPDX-License-Identifier: GPL-2.0 */
/* What a program needs of /dev/spanN. All functions return -errno on failure. */
#ifndef PORT_CLIENT_H
#define PORT_CLIENT_H

#include <stdbool.h>

#include <linux/span_port.h>

/* A file for data: -ENODEV when no guest is attached. */
int port_open(const char *path, bool write);
/* A file for looking and waiting; works on an empty port as well. */
int port_open_any(const char *path);

int port_info(int fd, struct span_port_info *info);
static inline bool port_attached(const struct span_port_info *info)
{
	return info->status & SPAN_STATUS_ATTACHED;
}

/* @len bytes of payload in and out; the time it took in nanoseconds. */
int port_call(int fd, __u16 *type, void *payload, __u16 *len, long long *ns);
int port_request_detach(int fd);

/*
 * Wait until the state that @fd looked at last has changed: 1 changed, 0 time
 * is up (milliseconds, -1: never).
 */
int port_wait_change(int fd, int timeout_ms);

long long monotonic_ms(void);
long long monotonic_ns(void);

#endif
