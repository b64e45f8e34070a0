// SPDX-License-Identifier: GPL-2.0
/*
 * Compares the memory of a process in two of CRIU's dumps, page by page:
 *
 *   same-pages PID DIRECTORY DIRECTORY
 *
 * Where one has a hole, its parent has the page. A page that one of them does not have counts as zeroes. Says
 * "PAGES DIFFERENT" and gives 1 if there is one that is different; of the first ten it says where.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE		4096UL
#define DEEPEST		32
#define FLAG_PARENT	1	/* PE_PARENT */

struct entry {
	uint64_t start, end;
	bool in_parent;
	uint64_t at;		/* in the file of pages */
};

struct image {
	struct entry *entry;
	size_t n;
	const char *pages;
	size_t size;
	struct image *parent;
};

static const char zeroes[PAGE];

static void die(const char *what, const char *path)
{
	fprintf(stderr, "same-pages: %s %s: %s\n", what, path, strerror(errno));
	exit(2);
}

static const char *map(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st))
		die("open", path);
	*size = st.st_size;
	if (!*size)
		return zeroes;
	p = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		die("mmap", path);
	close(fd);
	return p;
}

static uint64_t varint(const unsigned char **p)
{
	uint64_t v = 0;
	int shift = 0;

	do
		v |= (uint64_t)(**p & 0x7f) << shift, shift += 7;
	while (*(*p)++ & 0x80);
	return v;
}

/* One message of protobuf that has only numbers, by their field. */
static void fields(const unsigned char *p, const unsigned char *end, uint64_t f[8])
{
	memset(f, 0, 8 * sizeof(*f));
	while (p < end) {
		uint64_t key = varint(&p), value = varint(&p);

		if (key & 7 || key >> 3 >= 8) {
			fprintf(stderr, "same-pages: field %lu of a pagemap\n", key);
			exit(2);
		}
		f[key >> 3] = value;
	}
}

static struct image *load(const char *directory, int pid, int depth)
{
	struct image *im = calloc(1, sizeof(*im));
	const unsigned char *p, *end, *next;
	uint64_t f[8], at = 0;
	uint32_t length;
	char path[4096];
	struct stat st;
	size_t size;

	snprintf(path, sizeof(path), "%s/pagemap-%d.img", directory, pid);
	p = (const unsigned char *)map(path, &size);
	end = p + size;
	im->entry = calloc(size, sizeof(*im->entry));
	if (size < 12 || !im->entry)
		die("too short", path);
	for (p += 8; p < end; p = next) {
		struct entry *e = &im->entry[im->n];

		memcpy(&length, p, 4);
		next = p + 4 + length;
		fields(p + 4, next, f);
		if (!im->pages) {		/* the head: which file of pages */
			snprintf(path, sizeof(path), "%s/pages-%lu.img", directory, f[1]);
			im->pages = map(path, &im->size);
			continue;
		}
		e->start = f[1];
		e->end = f[1] + (f[5] ?: f[2]) * PAGE;
		e->in_parent = f[3] || f[4] & FLAG_PARENT;
		e->at = at;
		if (!e->in_parent)
			at += e->end - e->start;
		im->n++;
	}
	snprintf(path, sizeof(path), "%s/parent", directory);
	if (!stat(path, &st)) {
		if (depth > DEEPEST)
			die("too many parents", path);
		im->parent = load(path, pid, depth + 1);
	}
	return im;
}

/* The page, of whichever dump has it; NULL: none. */
static const char *page(const struct image *im, uint64_t vaddr)
{
	size_t low = 0, high = im->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (im->entry[mid].end <= vaddr)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == im->n || im->entry[low].start > vaddr)
		return NULL;
	if (im->entry[low].in_parent)
		return im->parent ? page(im->parent, vaddr) : NULL;
	vaddr = im->entry[low].at + vaddr - im->entry[low].start;
	if (vaddr + PAGE > im->size) {
		fprintf(stderr, "same-pages: a file of pages is too short\n");
		exit(2);
	}
	return im->pages + vaddr;
}

static size_t different;

/* Each page that a has; of those that both have, if it is asked for. */
static size_t compare(const struct image *a, const struct image *b, bool common)
{
	size_t n = 0, i;

	for (i = 0; i < a->n; i++)
		for (uint64_t v = a->entry[i].start; v < a->entry[i].end; v += PAGE) {
			const char *x = page(a, v), *y = page(b, v);

			if (y && !common)
				continue;
			n++;
			if (!memcmp(x ?: zeroes, y ?: zeroes, PAGE))
				continue;
			if (different++ < 10)
				printf("%lx %s\n", v, !x ? "is a hole of nothing" : !y ? "is in one only" : "is not the same");
		}
	return n;
}

int main(int argc, char **argv)
{
	struct image *a, *b;
	size_t n;

	if (argc != 4) {
		fprintf(stderr, "usage: same-pages PID DIRECTORY DIRECTORY\n");
		return 2;
	}
	a = load(argv[2], atoi(argv[1]), 0);
	b = load(argv[3], atoi(argv[1]), 0);
	n = compare(a, b, true);
	n += compare(b, a, false);
	printf("%zu %zu\n", n, different);
	return different ? 1 : 0;
}
