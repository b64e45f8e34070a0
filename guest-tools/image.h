/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest's raw memory: a span window (/dev/spanN) or a file.
 *
 * The guest runs and its memory changes while we look, and it may be hostile:
 * everything is copied out first and only the copy is examined.
 */
#ifndef IMAGE_H
#define IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NOT_FOUND UINT64_MAX

struct image {
	const uint8_t *map;
	uint64_t size;
	uint64_t below_4g;	/* bytes of RAM below the hole at 4 GiB */
	bool lost;		/* the memory went away: detached */
	int fd;
};

/* Returns 0 or -errno. below_4g 0: no hole. */
int image_open(struct image *img, const char *path, uint64_t below_4g);
void image_close(struct image *img);

/* Copy by offset in the window. False when out of range or lost. */
bool image_read(struct image *img, uint64_t offset, void *buf, size_t len);

/* Guest-physical address of a window offset and back (NOT_FOUND: no RAM). */
uint64_t image_phys(const struct image *img, uint64_t offset);
uint64_t image_offset(const struct image *img, uint64_t phys);

/* Copy by guest-physical address. */
bool phys_read(struct image *img, uint64_t phys, void *buf, size_t len);

/*
 * The first offset in [from, to) that is a multiple of 4 and where the four
 * bytes of @first are, or NOT_FOUND.
 */
uint64_t image_find(struct image *img, uint64_t from, uint64_t to, uint32_t first);

/* A number at any alignment, in a copy. */
static inline uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

#endif
