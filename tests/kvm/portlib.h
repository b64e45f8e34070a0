/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The control connection of a guest's controller to the port of an L1, its end on L0
 * played by a test: frames as in docs/specs/span-port.rst of the QEMU series.
 */
#ifndef PORTLIB_H
#define PORTLIB_H

#include <sys/un.h>

#include "spanlib.h"

enum { PORT_OFFER = 1, PORT_ACCEPT, PORT_REFUSE, PORT_DETACH, PORT_DETACHED };

struct port {
	int conn;
	uint32_t member, generation;
	uint64_t seq;
};

/* @fd goes with it, -1: none. */
static inline void port_send(struct port *p, uint16_t type, const void *payload, uint32_t len, int fd)
{
	struct {
		uint32_t magic;
		uint16_t version, type;
		uint32_t len, generation;
		uint64_t seq;
		uint8_t payload[64];
	} f = { 0x574e5053, 1, type, len, p->generation, ++p->seq, {} };
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec io = { &f, 24 + len };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
	struct cmsghdr *c;

	memcpy(f.payload, payload, len);
	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	MUST(sendmsg(p->conn, &m, MSG_NOSIGNAL));
}

/* The type of the next frame, 0 when there is none; the generation is the one that it names. */
static inline int port_take(struct port *p)
{
	uint8_t buf[256];
	uint32_t len;

	if (recv(p->conn, buf, 24, MSG_WAITALL) != 24)
		return 0;
	memcpy(&len, buf + 8, 4);
	if (len > sizeof(buf) - 24 || recv(p->conn, buf + 24, len, MSG_WAITALL) != (ssize_t)len)
		return 0;
	memcpy(&p->generation, buf + 12, 4);
	return buf[6];
}

/* Offers MEM_BYTES read-write to the port at @path; @fd is the capability. false: refused. */
static inline bool port_offer(struct port *p, const char *path, uint32_t rights, int fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct {
		uint64_t bytes;
		uint32_t access, rights;
		char guest[32];
	} payload = { MEM_BYTES, ACCESS_RW, rights, "played" };

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	p->conn = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(connect(p->conn, (struct sockaddr *)&a, sizeof(a)));
	port_send(p, PORT_OFFER, &payload, sizeof(payload), fd);
	close(fd);
	return port_take(p) == PORT_ACCEPT;
}

/* An orderly end; the type of the answer. */
static inline int port_detach(struct port *p, uint32_t grace_ms)
{
	uint32_t payload[2] = { grace_ms, 0 };

	port_send(p, PORT_DETACH, payload, sizeof(payload), -1);
	return port_take(p);
}

#endif
