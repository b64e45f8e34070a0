// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "image.h"

#define FOUR_GIB (1ull << 32)

/*
 * A detach turns the mapping into SIGBUS at any moment; a page that another
 * hypervisor denies may end in SIGSEGV. One guard at a time: these programs have
 * one thread.
 */
static sigjmp_buf guard;
static volatile sig_atomic_t guarded;

static void on_fault(int sig)
{
	if (guarded)
		siglongjmp(guard, sig);
	signal(sig, SIG_DFL);
	raise(sig);
}

static int install_guard(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	return sigaction(SIGBUS, &sa, NULL) || sigaction(SIGSEGV, &sa, NULL) ? -errno : 0;
}

int image_open(struct image *img, const char *path, uint64_t below_4g)
{
	off_t size;
	void *map;
	int ret;

	memset(img, 0, sizeof(*img));
	ret = install_guard();
	if (ret)
		return ret;
	img->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (img->fd < 0)
		return -errno;
	size = lseek(img->fd, 0, SEEK_END);
	if (size <= 0) {
		ret = size < 0 ? -errno : -ENODATA;
		goto err_close;
	}
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, img->fd, 0);
	if (map == MAP_FAILED) {
		ret = -errno;
		goto err_close;
	}
	img->map = map;
	img->size = size;
	img->below_4g = below_4g && below_4g < img->size ? below_4g : img->size;
	return 0;

err_close:
	close(img->fd);
	img->fd = -1;
	return ret;
}

void image_close(struct image *img)
{
	if (img->map)
		munmap((void *)img->map, img->size);
	if (img->fd >= 0)
		close(img->fd);
	img->map = NULL;
	img->fd = -1;
}

bool image_read(struct image *img, uint64_t offset, void *buf, size_t len)
{
	int sig;

	if (offset > img->size || len > img->size - offset || img->lost)
		return false;
	sig = sigsetjmp(guard, 0);
	if (sig) {
		guarded = 0;
		img->lost |= sig == SIGBUS;
		return false;
	}
	guarded = 1;
	memcpy(buf, img->map + offset, len);
	guarded = 0;
	return true;
}

uint64_t image_phys(const struct image *img, uint64_t offset)
{
	return offset < img->below_4g ? offset : FOUR_GIB + (offset - img->below_4g);
}

uint64_t image_offset(const struct image *img, uint64_t phys)
{
	if (phys < img->below_4g)
		return phys;
	/* without a hole below_4g is the size, and nothing lies above it */
	if (phys < FOUR_GIB || phys - FOUR_GIB >= img->size - img->below_4g)
		return NOT_FOUND;
	return phys - FOUR_GIB + img->below_4g;
}

bool phys_read(struct image *img, uint64_t phys, void *buf, size_t len)
{
	uint64_t first = image_offset(img, phys);

	if (first == NOT_FOUND || !len)
		return false;
	/* both ends in the same piece of RAM? */
	if (phys + len < phys || image_offset(img, phys + len - 1) != first + len - 1)
		return false;
	return image_read(img, first, buf, len);
}

static uint64_t find_in(const uint8_t *map, uint64_t from, uint64_t to, uint32_t first)
{
	uint32_t word;

#ifdef __SSE2__
	__m128i want = _mm_set1_epi32((int)first);

	for (; to - from >= 64; from += 64) {
		const __m128i *p = (const __m128i *)(map + from);
		__m128i hit = _mm_or_si128(
			_mm_or_si128(_mm_cmpeq_epi32(_mm_loadu_si128(p), want),
				     _mm_cmpeq_epi32(_mm_loadu_si128(p + 1), want)),
			_mm_or_si128(_mm_cmpeq_epi32(_mm_loadu_si128(p + 2), want),
				     _mm_cmpeq_epi32(_mm_loadu_si128(p + 3), want)));

		if (_mm_movemask_epi8(hit))
			break;
	}
#endif
	for (; to - from >= 4; from += 4) {
		memcpy(&word, map + from, 4);
		if (word == first)
			return from;
	}
	return NOT_FOUND;
}

uint64_t image_find(struct image *img, uint64_t from, uint64_t to, uint32_t first)
{
	volatile uint64_t start = (from + 3) & ~3ull;
	volatile uint64_t found = NOT_FOUND;
	volatile uint64_t step = 1 << 20;

	if (to > img->size)
		to = img->size;
	to &= ~3ull;
	/* In pieces; after a page that may not be read in pieces of one page, to pass by it. */
	while (start < to && found == NOT_FOUND && !img->lost) {
		uint64_t end = (start & -step) + step;
		int sig;

		if (end > to)
			end = to;
		sig = sigsetjmp(guard, 0);
		if (sig) {
			guarded = 0;
			img->lost |= sig == SIGBUS;
			if (step == 4096)
				start = (start & -step) + step;
			step = 4096;
			continue;
		}
		guarded = 1;
		found = find_in(img->map, start, end, first);
		guarded = 0;
		start = end;
	}
	return found;
}
