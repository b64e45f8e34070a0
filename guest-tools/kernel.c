// SPDX-License-Identifier: GPL-2.0
/*
 * Find a Linux kernel in raw memory with nothing known about it:
 *
 *  1. its BTF, by the magic number; it says where members are;
 *  2. init_task, by the name of the idle task and pointers to itself; its own
 *     address, which it holds, minus where it was found is where the kernel
 *     image lies (KASLR or not);
 *  3. page tables that translate both init_task and the next task's address,
 *     which must point back: of init_mm if init_task happens to use it, else
 *     any page of memory that does.
 */
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#define BTF_MAGIC_WORD	0x0001eb9fu	/* magic, version 1, flags 0 */
#define MAX_BTF_BYTES	(64u << 20)
#define MAX_CANDIDATES	256	/* of BTF, of init_task: a guest may plant many */
#define IMAGE_SPAN	(128ull << 20)	/* a kernel image is smaller than this */
#define KERNEL_IMAGE_VA	0xffffffff80000000ull
#define KERNEL_IMAGE_END 0xffffffffc0000000ull	/* modules, with address randomisation */
#define PF_KTHREAD	0x00200000u

#define ENTRY_PRESENT	1ull
#define ENTRY_WRITE	(1ull << 1)
#define ENTRY_HUGE	(1ull << 7)
#define ENTRY_ADDRESS	0x000ffffffffff000ull
#define ENTRY_NX	(1ull << 63)

struct btf_head {
	uint32_t magic;		/* with version and flags */
	uint32_t hdr_len, type_off, type_len, str_off, str_len;
};

void lookup(struct image *img, uint64_t pgd, int levels, uint64_t va, struct mapping *m)
{
	uint64_t table = pgd & ENTRY_ADDRESS, entry;
	int level, shift;

	*m = (struct mapping){ .write = true, .exec = true };
	for (level = levels; level >= 1; level--) {
		shift = 12 + 9 * (level - 1);
		m->size = 1ull << shift;
		if (!phys_read(img, table + ((va >> shift) & 511) * 8, &entry, 8) ||
		    !(entry & ENTRY_PRESENT))
			return;
		/* every level may take away */
		m->write &= !!(entry & ENTRY_WRITE);
		m->exec &= !(entry & ENTRY_NX);
		if (level == 1 || (level <= 3 && (entry & ENTRY_HUGE))) {
			m->present = true;
			m->phys = (entry & ENTRY_ADDRESS & -m->size) | (va & (m->size - 1));
			return;
		}
		table = entry & ENTRY_ADDRESS;
	}
}

bool translate(struct image *img, uint64_t pgd, int levels, uint64_t va, uint64_t *phys)
{
	struct mapping m;

	lookup(img, pgd, levels, va, &m);
	if (m.present)
		*phys = m.phys;
	return m.present;
}

bool virt_read(struct image *img, uint64_t pgd, int levels, uint64_t va,
	       void *buf, size_t len)
{
	uint8_t *p = buf;
	uint64_t phys;
	size_t n;

	for (; len; len -= n, va += n, p += n) {
		n = 4096 - (va & 4095);
		if (n > len)
			n = len;
		if (!translate(img, pgd, levels, va, &phys) || !phys_read(img, phys, p, n))
			return false;
	}
	return true;
}

/* Read the BTF at @offset if its header makes sense; frees nothing, sets @k. */
static bool try_btf(struct image *img, uint64_t offset, struct kernel *k)
{
	struct btf_head h;
	uint32_t bytes;
	uint8_t *copy;
	bool ok;

	if (!image_read(img, offset, &h, sizeof(h)) || h.magic != BTF_MAGIC_WORD)
		return false;
	/* each below 2^26, so no sum wraps */
	if (h.hdr_len != sizeof(h) || h.type_off || h.type_len % 4 || !h.type_len ||
	    h.type_len > MAX_BTF_BYTES || h.str_off > MAX_BTF_BYTES ||
	    h.str_len > MAX_BTF_BYTES || h.str_off < h.type_len || h.str_len < 2)
		return false;
	bytes = sizeof(h) + h.str_off + h.str_len;
	if (bytes > MAX_BTF_BYTES || bytes > img->size - offset)
		return false;
	copy = malloc(bytes);
	if (!copy)
		return false;
	/* what libbpf sees is this copy, with the header that was checked */
	ok = image_read(img, offset, copy, bytes);
	if (ok) {
		memcpy(copy, &h, sizeof(h));
		ok = !copy[sizeof(h) + h.str_off] && !copy[bytes - 1] &&
		     layout_from_btf(copy, bytes, &k->at);
	}
	free(copy);
	k->btf_offset = offset;
	k->btf_bytes = bytes;
	return ok;
}

/* Is what lies at @offset the idle task of the first CPU? */
static bool try_init_task(struct image *img, struct kernel *k, uint64_t offset, uint8_t *task)
{
	const struct layout *at = &k->at;
	uint64_t self;

	if (!image_read(img, offset, task, at->task_bytes))
		return false;
	if (strncmp((char *)task + at->comm, "swapper/0", at->comm_len) &&
	    strncmp((char *)task + at->comm, "swapper", at->comm_len))
		return false;
	self = load64(task + at->real_parent);
	if (self < KERNEL_IMAGE_VA || self != load64(task + at->group_leader))
		return false;
	if (load32(task + at->pid) || load32(task + at->tgid) || load64(task + at->mm) ||
	    !(load32(task + at->flags) & PF_KTHREAD))
		return false;
	k->init_task = self;
	k->init_task_phys = image_phys(img, offset);
	/* the image is moved by whole 2 MiB pages */
	return !((self - k->init_task_phys) & ((2 << 20) - 1));
}

/* Do these tables translate init_task, and its neighbour in the list? */
static bool try_pgd(struct image *img, struct kernel *k, uint64_t pgd, int levels,
		    const uint8_t *task)
{
	const struct layout *at = &k->at;
	uint64_t head = k->init_task + at->tasks;
	uint64_t next = load64(task + at->tasks + at->list_next);
	uint64_t phys, prev;

	if (!translate(img, pgd, levels, k->init_task, &phys) || phys != k->init_task_phys)
		return false;
	if (!virt_read(img, pgd, levels, next + at->list_prev, &prev, 8) || prev != head)
		return false;
	k->pgd = pgd;
	k->levels = levels;
	return true;
}

/*
 * With five levels the linear map, where all tasks but the first lie, is below
 * what four levels can address. Trying both instead would be wrong: a page that
 * leads to a four-level root looks like a five-level one for kernel addresses.
 */
static int levels_of(const struct kernel *k, const uint8_t *task)
{
	uint64_t next = load64(task + k->at.tasks + k->at.list_next);

	return next >> 47 == 0x1ffff ? 4 : 5;
}

/* init_task mostly uses init_mm, which lies in the kernel image as well. */
static bool pgd_of_init_mm(struct image *img, struct kernel *k, const uint8_t *task)
{
	uint64_t delta = k->init_task - k->init_task_phys;
	uint64_t mm = load64(task + k->at.active_mm), pgd;

	if (mm < KERNEL_IMAGE_VA || !phys_read(img, mm - delta + k->at.mm_pgd, &pgd, 8))
		return false;
	if (pgd < KERNEL_IMAGE_VA || !try_pgd(img, k, pgd - delta, levels_of(k, task), task))
		return false;
	k->pgd_from_init_mm = true;
	return true;
}

/*
 * Does the page at @phys belong to the kernel image, where the image is mapped?
 * Then it is init_mm's table, which stays; a process's may go with it.
 */
static bool in_image(struct image *img, const struct kernel *k, uint64_t phys)
{
	uint64_t back;

	return translate(img, k->pgd, k->levels, phys + (k->init_task - k->init_task_phys), &back) &&
	       back == phys;
}

static bool pgd_in(struct image *img, struct kernel *k, uint64_t from, uint64_t to,
		   const uint8_t *task, bool image_only)
{
	int levels = levels_of(k, task);
	uint64_t offset, entry;

	if (to > img->size)
		to = img->size;
	for (offset = from & ~4095ull; offset + 4096 <= to && !img->lost; offset += 4096) {
		/* the last entry of a top level leads to the kernel image */
		if (!image_read(img, offset + 511 * 8, &entry, 8) ||
		    !(entry & ENTRY_PRESENT))
			continue;
		if (try_pgd(img, k, image_phys(img, offset), levels, task) &&
		    (!image_only || in_image(img, k, k->pgd)))
			return true;
	}
	return false;
}

static bool find_pgd(struct image *img, struct kernel *k, uint64_t task_offset,
		     const uint8_t *task)
{
	uint64_t from = task_offset > IMAGE_SPAN ? task_offset - IMAGE_SPAN : 0;

	return pgd_of_init_mm(img, k, task) ||
	       pgd_in(img, k, from, task_offset + IMAGE_SPAN, task, true) ||
	       pgd_in(img, k, 0, img->size, task, false);
}

static enum kernel_error init_task_in(struct image *img, struct kernel *k, uint64_t from,
				      uint64_t to)
{
	enum kernel_error err = KERNEL_NO_INIT_TASK;
	uint64_t hit = from, offset;
	int candidates = 0;
	uint8_t *task;
	uint32_t word;

	task = malloc(k->at.task_bytes);
	if (!task)
		return err;
	memcpy(&word, "swap", 4);
	while (candidates < MAX_CANDIDATES &&
	       (hit = image_find(img, hit, to, word)) != NOT_FOUND) {
		offset = hit - k->at.comm;
		hit += 4;
		if (offset > hit || !try_init_task(img, k, offset, task))
			continue;
		candidates++;
		if (find_pgd(img, k, offset, task)) {
			err = KERNEL_OK;
			break;
		}
		err = KERNEL_NO_PAGE_TABLE;
	}
	free(task);
	return err;
}

/* The version, for people. Not needed for anything else. */
static void find_release(struct image *img, struct kernel *k)
{
	uint64_t from = k->btf_offset > IMAGE_SPAN ? k->btf_offset - IMAGE_SPAN : 0;
	char text[14 + 65];
	uint32_t word;
	size_t n;

	memcpy(&word, "Linu", 4);
	for (;; from += 4) {
		from = image_find(img, from, k->btf_offset + IMAGE_SPAN, word);
		if (from == NOT_FOUND)
			return;
		if (!image_read(img, from, text, sizeof(text)) ||
		    memcmp(text, "Linux version ", 14))
			continue;
		text[sizeof(text) - 1] = 0;
		n = strspn(text + 14, "0123456789abcdefghijklmnopqrstuvwxyz"
				      "ABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_~");
		if (!n || text[14 + n] != ' ')
			continue;
		memcpy(k->release, text + 14, n);
		k->release[n] = 0;
		return;
	}
}

static enum kernel_error kernel_of_btf(struct image *img, struct kernel *k)
{
	uint64_t from = k->btf_offset > IMAGE_SPAN ? k->btf_offset - IMAGE_SPAN : 0;
	enum kernel_error err;

	/* the image holds both; but look everywhere before giving up */
	err = init_task_in(img, k, from, k->btf_offset + IMAGE_SPAN);
	if (err == KERNEL_NO_INIT_TASK)
		err = init_task_in(img, k, 0, img->size);
	return err;
}

enum kernel_error kernel_find(struct image *img, struct kernel *k)
{
	enum kernel_error err, best = KERNEL_NO_BTF;
	int candidates = 0;
	uint64_t hit = 0;

	memset(k, 0, sizeof(*k));
	while (candidates < MAX_CANDIDATES &&
	       (hit = image_find(img, hit, img->size, BTF_MAGIC_WORD)) != NOT_FOUND) {
		uint64_t at = hit;

		hit += 4;
		if (!try_btf(img, at, k))
			continue;
		candidates++;
		err = kernel_of_btf(img, k);
		if (err == KERNEL_OK) {
			find_release(img, k);
			return KERNEL_OK;
		}
		best = err;
	}
	return img->lost ? KERNEL_LOST : best;
}

/* Part of the image at @va, which goes to the range before it or begins one. */
static size_t add_text(struct image *img, uint64_t va, const struct mapping *m,
		       struct text_range *out, size_t n, size_t max)
{
	uint64_t offset = image_offset(img, m->phys);
	struct text_range *last = n ? &out[n - 1] : NULL;

	if (offset == NOT_FOUND || image_offset(img, m->phys + m->size - 1) != offset + m->size - 1)
		return n;
	if (last && last->va + last->bytes == va && last->offset + last->bytes == offset) {
		last->bytes += m->size;
		return n;
	}
	if (n < max)
		out[n++] = (struct text_range){ va, offset, m->size };
	return n;
}

size_t kernel_text(struct image *img, const struct kernel *k, struct text_range *out, size_t max)
{
	uint64_t delta = k->init_task - k->init_task_phys, va = KERNEL_IMAGE_VA;
	struct mapping m;
	size_t n = 0;

	while (va < KERNEL_IMAGE_END && !img->lost) {
		lookup(img, k->pgd, k->levels, va, &m);
		/* at that place it is the image, and nothing that was mapped beside it */
		if (m.present && m.exec && !m.write && m.phys == va - delta)
			n = add_text(img, va, &m, out, n, max);
		va = (va | (m.size - 1)) + 1;
		if (!va)	/* a hole up to the end of all addresses */
			break;
	}
	return n;
}

const char *kernel_strerror(enum kernel_error e)
{
	switch (e) {
	case KERNEL_OK:
		return "no error";
	case KERNEL_NO_BTF:
		return "no Linux kernel with BTF in this memory (CONFIG_DEBUG_INFO_BTF is needed, and the kernel must have started)";
	case KERNEL_NO_INIT_TASK:
		return "found a kernel's BTF, but no process list that fits it";
	case KERNEL_NO_PAGE_TABLE:
		return "found the first task, but no page tables that translate it (wrong --below-4g?)";
	case KERNEL_LOST:
		return "the memory went away: the guest was detached";
	}
	return "unknown error";
}
