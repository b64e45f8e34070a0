// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "port-client.h"

long long monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

long long monotonic_ms(void)
{
	return monotonic_ns() / 1000000;
}

int port_open(const char *path, bool write)
{
	int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int port_open_any(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int port_info(int fd, struct span_port_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	if (ioctl(fd, SPAN_PORT_GET_INFO, info))
		return -errno;
	info->name[SPAN_NAME_LEN - 1] = 0;
	return 0;
}

int port_call(int fd, __u16 *type, void *payload, __u16 *len, long long *ns)
{
	struct span_port_call call = { .size = sizeof(call), .type = *type, .len = *len };
	long long start;

	if (*len > sizeof(call.payload))
		return -EINVAL;
	memcpy(call.payload, payload, *len);
	start = monotonic_ns();
	if (ioctl(fd, SPAN_PORT_CALL, &call))
		return -errno;
	*ns = monotonic_ns() - start;
	*type = call.type;
	*len = call.len;
	memcpy(payload, call.payload, sizeof(call.payload));
	return 0;
}

int port_request_detach(int fd)
{
	return ioctl(fd, SPAN_PORT_DETACH) ? -errno : 0;
}

int port_wait_change(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	int n = poll(&p, 1, timeout_ms);

	if (n < 0)
		return -errno;
	return n > 0;
}
