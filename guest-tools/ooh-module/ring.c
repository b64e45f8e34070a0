// SPDX-License-Identifier: GPL-2.0
/* The records that the reader of an open file gets: a ring that is mmapped. */
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "ooh.h"

struct ooh_ring_buffer {
	struct page **pages;		/* charged to who tracks */
	unsigned long nr_pages;
	struct ooh_ring *shared;	/* the reader writes it too: only its tail is read */
	struct ooh_record *records;
	u32 size;
	u32 head;			/* of records that the reader may see */
	u32 next;			/* and of those that are being put in */
	u32 limit;			/* how many can be put in now */
	u64 end;			/* of the last one */
};

void ooh_ring_free(struct ooh_ring_buffer *ring)
{
	if (!ring)
		return;
	if (ring->shared)
		vunmap(ring->shared);
	while (ring->nr_pages)
		__free_page(ring->pages[--ring->nr_pages]);
	kvfree(ring->pages);
	kfree(ring);
}

/* Not vmalloc_user(): that charges nobody. */
static int make_pages(struct ooh_ring_buffer *ring, unsigned long n)
{
	ring->pages = kvmalloc_array(n, sizeof(*ring->pages), GFP_KERNEL_ACCOUNT);
	if (!ring->pages)
		return -ENOMEM;
	for (; ring->nr_pages < n; ring->nr_pages++) {
		struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

		if (!page)
			return -ENOMEM;
		ring->pages[ring->nr_pages] = page;
	}
	ring->shared = vmap(ring->pages, n, VM_MAP | VM_USERMAP, PAGE_KERNEL);
	return ring->shared ? 0 : -ENOMEM;
}

struct ooh_ring_buffer *ooh_ring_new(unsigned int order)
{
	struct ooh_ring_buffer *ring = kzalloc(sizeof(*ring), GFP_KERNEL_ACCOUNT);
	unsigned long pages = 1UL << order;

	if (!ring)
		return NULL;
	if (make_pages(ring, pages + 1)) {
		ooh_ring_free(ring);
		return NULL;
	}
	ring->records = (void *)ring->shared + PAGE_SIZE;
	ring->size = (pages << PAGE_SHIFT) / sizeof(*ring->records);
	ring->shared->size = ring->size;
	return ring;
}

size_t ooh_ring_bytes(const struct ooh_ring_buffer *ring)
{
	return PAGE_SIZE + ring->size * sizeof(*ring->records);
}

int ooh_ring_mmap(struct ooh_ring_buffer *ring, struct vm_area_struct *vma)
{
	if (vma->vm_end - vma->vm_start > ooh_ring_bytes(ring))
		return -EINVAL;
	return remap_vmalloc_range(vma, ring->shared, 0);
}

int ooh_ring_begin(struct ooh_ring_buffer *ring)
{
	/* Pairs with the reader's release of what it has read. */
	u32 used = ring->head - smp_load_acquire(&ring->shared->tail);

	if (used > ring->size)
		return -EINVAL;
	ring->limit = ring->size - used;
	ring->next = ring->head;
	return 0;
}

static struct ooh_record *record(struct ooh_ring_buffer *ring, u32 n)
{
	return &ring->records[n & (ring->size - 1)];
}

/* Put in the pages of a group; those that found room. Addresses only grow. */
u64 ooh_ring_add(struct ooh_ring_buffer *ring, unsigned long base, u64 pages)
{
	u64 done = 0;

	while (pages) {
		unsigned int first = __ffs64(pages);
		unsigned int count = ~(pages >> first) ? __ffs64(~(pages >> first)) : OOH_GROUP_PAGES;
		unsigned long start = base + ((unsigned long)first << PAGE_SHIFT);
		unsigned long end = start + ((unsigned long)count << PAGE_SHIFT);
		u64 bits = GENMASK_ULL(first + count - 1, first);

		if (ring->next != ring->head && ring->end == start) {
			record(ring, ring->next - 1)->end = end;
		} else {
			if (ring->next - ring->head == ring->limit)
				break;
			*record(ring, ring->next++) = (struct ooh_record) { start, end };
		}
		ring->end = end;
		pages &= ~bits;
		done |= bits;
	}
	return done;
}

/* Show them to the reader; how many. */
u32 ooh_ring_end(struct ooh_ring_buffer *ring, u64 epoch)
{
	u32 count = ring->next - ring->head;

	ring->head = ring->next;
	WRITE_ONCE(ring->shared->epoch, epoch);
	/* Pairs with the reader's acquire: the records are there before the head is. */
	smp_store_release(&ring->shared->head, ring->head);
	return count;
}
