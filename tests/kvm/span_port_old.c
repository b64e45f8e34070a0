// SPDX-License-Identifier: GPL-2.0
/*
 * A driver of the first days, played by a program: it knows the registers, the window and
 * the message rings of <linux/span_port.h> and nothing that came later, has no
 * interrupt handlers and looks at the registers instead. A port of today has to be good for it.
 *
 * test: none
 *
 *	span_port_old DEVICE OFFSET	DEVICE: the function's directory in /sys, enabled, no
 *			driver bound. Says EMPTY; at the attachment ATTACHED, the guest's
 *			size and 16 bytes of its memory at OFFSET; PONG when a
 *			message was answered; DETACHED when it has let go
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/span_port.h>

#include "ktap.h"

#define KNOWN_STATUS	(SPAN_STATUS_ATTACHED | SPAN_STATUS_READONLY | SPAN_STATUS_DETACHING)
#define PATIENCE	20000	/* milliseconds */

static volatile uint32_t *regs;
static struct span_ring *to_l0, *to_l1;

static uint32_t reg(unsigned int at)
{
	return regs[at / 4];
}

static void end(const char *why)
{
	printf("FAILED %s\n", why);
	exit(1);
}

static void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static void *map(const char *device, int bar, size_t bytes)
{
	char path[256];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s/resource%d", device, bar);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		end(path);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		end(path);
	close(fd);
	return p;
}

/* MSI-X on, all vectors masked: a port whose driver has no interrupts does not ask it to let go. */
static void enable_interrupts(const char *device)
{
	char path[256];
	uint8_t at = 0x34, id = 0;
	uint16_t control;
	int fd;

	snprintf(path, sizeof(path), "%s/config", device);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, &at, 1, at) != 1)
		end(path);
	while (at && pread(fd, &id, 1, at) == 1 && id != 0x11)
		if (pread(fd, &at, 1, at + 1) != 1)
			end(path);
	if (id != 0x11 || pread(fd, &control, 2, at + 2) != 2)
		end("no MSI-X");
	control |= 1u << 15;
	if (pwrite(fd, &control, 2, at + 2) != 2)
		end(path);
	close(fd);
}

static void wait_status(uint32_t mask, uint32_t want)
{
	int ms;

	for (ms = 0; (reg(SPAN_REG_STATUS) & mask) != want; ms++) {
		if (ms > PATIENCE)
			end("the state that was waited for did not come");
		usleep(1000);
	}
}

static void ping(void)
{
	struct span_msg msg = { .type = SPAN_MSG_PING, .len = 4, .seq = 1, .payload = "old" }, answer;
	uint32_t tail = to_l1->tail;
	int ms;

	regs[SPAN_REG_COMMAND / 4] = SPAN_CMD_RING_RESET;
	if (reg(SPAN_REG_RESULT))
		end("the rings cannot be started");
	tail = 0;
	to_l0->slot[0] = msg;
	__atomic_store_n(&to_l0->head, 1, __ATOMIC_RELEASE);
	regs[SPAN_REG_DOORBELL / 4] = 1;
	for (ms = 0; __atomic_load_n(&to_l1->head, __ATOMIC_ACQUIRE) == tail; ms++) {
		if (ms > PATIENCE)
			end("no answer in the ring");
		usleep(1000);
	}
	answer = to_l1->slot[tail % SPAN_RING_SLOTS];
	if (answer.type != SPAN_MSG_PONG || answer.len != 4 || memcmp(answer.payload, "old", 4))
		end("another answer");
	__atomic_store_n(&to_l1->tail, tail + 1, __ATOMIC_RELEASE);
}

int main(int argc, char **argv)
{
	uint64_t bytes, offset;
	uint8_t *window;
	int i;

	if (argc != 3) {
		fprintf(stderr, "usage: span_port_old DEVICE OFFSET\n");
		return 2;
	}
	regs = map(argv[1], SPAN_PORT_BAR_REGS, 4096);
	to_l0 = map(argv[1], SPAN_PORT_BAR_RING, SPAN_RING_BYTES);
	to_l1 = to_l0 + 1;
	offset = strtoull(argv[2], NULL, 0);
	if (reg(SPAN_REG_MAGIC) != SPAN_PORT_MAGIC || reg(SPAN_REG_VERSION) != 1)
		end("no port of version 1");
	if (!(reg(SPAN_REG_FEATURES) & SPAN_PORT_F_WINDOW) || !(reg(SPAN_REG_FEATURES) & SPAN_PORT_F_RING))
		end("no window, or no rings");
	if (reg(SPAN_REG_STATUS))
		end("it is not empty");
	enable_interrupts(argv[1]);
	say("EMPTY");
	wait_status(KNOWN_STATUS, SPAN_STATUS_ATTACHED);
	bytes = reg(SPAN_REG_SIZE_LO) | (uint64_t)reg(SPAN_REG_SIZE_HI) << 32;
	window = map(argv[1], SPAN_PORT_BAR_WINDOW, bytes);
	printf("ATTACHED %llu ", (unsigned long long)bytes);
	for (i = 0; i < 16; i++)
		printf("%02x", window[offset + i]);
	say("");
	ping();
	say("PONG");
	wait_status(SPAN_STATUS_DETACHING, SPAN_STATUS_DETACHING);
	munmap(window, bytes);
	regs[SPAN_REG_ARGUMENT / 4] = reg(SPAN_REG_GENERATION);
	regs[SPAN_REG_COMMAND / 4] = SPAN_CMD_DETACH_ACK;
	if (reg(SPAN_REG_RESULT))
		end("it does not take the answer");
	wait_status(KNOWN_STATUS, 0);
	say("DETACHED");
	return 0;
}
