// SPDX-License-Identifier: GPL-2.0
/*
 * scribble SEED COUNT [OFFSET LENGTH]
 *
 * A hostile L1: writes random words into the pages that its span-port shares with
 * L0's kernel (BAR 5 at SPAN_SHARE_OFFSET), and rings the doorbell now and then. As root in the L1,
 * beside the driver. By default all of them, or LENGTH bytes at OFFSET. Prints how
 * many words and doorbells.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/span_port.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t seed;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static int contains(const char *device, const char *name, const char *want)
{
	char path[300], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", device, name);
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof(text), f))
		text[0] = '\0';
	if (f)
		fclose(f);
	return !strncmp(text, want, strlen(want));
}

/* The span-port: the device that the driver has. */
static int find(char *device, size_t size)
{
	DIR *d = opendir("/sys/bus/pci/drivers/span_port");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (!contains(e->d_name, "vendor", "0x"))
			continue;
		snprintf(device, size, "/sys/bus/pci/devices/%s", e->d_name);
		closedir(d);
		return 0;
	}
	return -1;
}

static volatile uint8_t *map(const char *device, int bar, off_t offset, size_t bytes)
{
	char path[600];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s/resource%d", device, bar);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	p = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (p == MAP_FAILED) {
		perror(path);
		exit(2);
	}
	return p;
}

/* Bits here and there, whole words, indices near one another: what gets furthest. */
static uint64_t nonsense(void)
{
	switch (draw() % 5) {
	case 0: return 0;
	case 1: return ~0ull;
	case 2: return 1ull << draw() % 64;
	case 3: return draw() % 0x20000;
	default: return draw();
	}
}

int main(int argc, char **argv)
{
	uint64_t count, i, rung = 0, offset = 0, length = SPAN_SHARE_BYTES;
	volatile uint8_t *share, *regs;
	char device[512];

	if (argc != 3 && argc != 5) {
		fprintf(stderr, "usage: scribble SEED COUNT [OFFSET LENGTH]\n");
		return 2;
	}
	seed = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ull | 1;
	count = strtoull(argv[2], NULL, 0);
	if (argc == 5) {
		offset = strtoull(argv[3], NULL, 0);
		length = strtoull(argv[4], NULL, 0);
	}
	if (find(device, sizeof(device))) {
		fprintf(stderr, "scribble: no span-port\n");
		return 2;
	}
	share = map(device, 5, SPAN_SHARE_OFFSET, SPAN_SHARE_BYTES);
	regs = map(device, 0, 0, 4096);
	for (i = 0; i < count; i++) {
		uint64_t at = (offset + draw() % length) & ~7ull;

		*(volatile uint64_t *)(share + at) = nonsense();
		if (draw() % 8)
			continue;
		*(volatile uint32_t *)(regs + SPAN_REG_SHARE) = draw();
		rung++;
	}
	printf("%lu words, %lu doorbells\n", count, rung);
	return 0;
}
