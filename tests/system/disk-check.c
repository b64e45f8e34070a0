// SPDX-License-Identifier: GPL-2.0
/*
 * disk-check FILE SEED [BLOCKS]          writes and reads blocks, until it is told to end
 * disk-check FILE SEED BLOCKS ROUNDS     has the file what so many rounds leave in it?
 *
 * A round writes one block, whose place and content follow from the seed and the round's number,
 * waits until it is on the disk (fdatasync), and reads another one that was written before, past
 * any cache. A line "r" is answered by "rounds errors", "q" likewise, and is the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096

static int fd;
static uint64_t seed, blocks = 512;
static uint64_t *last;		/* the round that wrote a block; 0: none */
static uint64_t *data;
static unsigned long long errors;

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185ull;
	x ^= x >> 27;
	x *= 0x81dadef4bc2dd44dull;
	return x ^ x >> 33;
}

static uint64_t place(uint64_t round)
{
	return mix(seed * 0x9e3779b97f4a7c15ull + round) % blocks;
}

static uint64_t word(uint64_t round, unsigned int i)
{
	return mix(round << 20 ^ seed << 44 ^ i);
}

static void put(uint64_t round)
{
	uint64_t at = place(round);
	unsigned int i;

	for (i = 0; i < BLOCK / 8; i++)
		data[i] = word(round, i);
	if (pwrite(fd, data, BLOCK, at * BLOCK) != BLOCK || fdatasync(fd))
		errors++;
	last[at] = round;
}

static void look(uint64_t at)
{
	unsigned int i;

	if (!last[at])
		return;
	if (pread(fd, data, BLOCK, at * BLOCK) != BLOCK) {
		errors++;
		return;
	}
	for (i = 0; i < BLOCK / 8; i++) {
		if (data[i] != word(last[at], i)) {
			errors++;
			return;
		}
	}
}

static int verify(uint64_t rounds)
{
	uint64_t i;

	for (i = 1; i <= rounds; i++)
		last[place(i)] = i;
	for (i = 0; i < blocks; i++)
		look(i);
	printf("%llu %llu\n", (unsigned long long)rounds, errors);
	return errors ? 1 : 0;
}

static int work(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	uint64_t round = 0;
	char line[16];
	ssize_t n;

	for (;;) {
		if (poll(&in, 1, 0) > 0) {
			n = read(0, line, sizeof(line));
			if (n <= 0)
				return 2;
			printf("%llu %llu\n", (unsigned long long)round, errors);
			fflush(stdout);
			if (line[0] == 'q')
				return errors ? 1 : 0;
		}
		put(++round);
		look(mix(round) % blocks);
		usleep(2000);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: disk-check FILE SEED [BLOCKS [ROUNDS]]\n");
		return 2;
	}
	seed = strtoull(argv[2], NULL, 0);
	if (argc > 3)
		blocks = strtoull(argv[3], NULL, 0);
	last = calloc(blocks, sizeof(*last));
	if (!last || posix_memalign((void **)&data, BLOCK, BLOCK)) {
		perror("disk-check: memory");
		return 2;
	}
	/* An image in memory has no direct access, and needs none. */
	fd = open(argv[1], O_RDWR | O_CLOEXEC | (argc > 4 ? 0 : O_DIRECT));
	if (fd < 0) {
		perror(argv[1]);
		return 2;
	}
	return argc > 4 ? verify(strtoull(argv[4], NULL, 0)) : work();
}
