/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ooh.ko: which pages of a process were written, from the host's log.
 *
 * What is tracked is frames. The module arms the frames that a Tracked has
 * mapped; the host reports each once when it is written, from wherever (threads
 * of the Tracked, process_vm_writev, io_uring, another process's mapping, a
 * device that the host emulates), so nothing has to be done when the Tracked is
 * scheduled. Four nouns:
 *
 *   space  an address space that one open file tracks;
 *   group  64 pages of it, with the frame that each was last seen in;
 *   frame  a frame of the guest, and the pages that were seen in it;
 *   mark   a group whose page tables have to be looked at again, since a page
 *          came there (probe.c) or went from there (the mmu notifier).
 *
 * A fetch looks at the marked groups, arms the frames that are new there, has
 * the host report what was written and arm that again, and gives the pages.
 * A page counts as written if the host reported its frame, or if it is not in
 * the frame where it was. That nothing is missed:
 *
 * (1) A page that stays in its frame: the frame is armed, so the host reports
 *     the write; its report finds the page (frame.c), since a page is taken off
 *     its frame only in a fetch, which then counts it as written itself.
 * (2) A page that comes into a frame: whoever puts a frame into a page table
 *     calls, while it holds the lock of that page table, a function that is
 *     probed, and the probe leaves a mark. A fetch takes marks away first and
 *     then looks at the page table with its lock held. So either it sees the
 *     frame, or the frame came after the look, and the mark after the one that
 *     was taken away. Pages that move with mremap leave a mark while mmap_lock
 *     is held for writing; looks hold it for reading.
 * (3) A frame that is new is armed before the fetch ends, and its page is in
 *     that fetch. A write before the arming is seen by whoever reads the page
 *     after the fetch, a later one is reported by the host.
 *     A page that came into a frame and has left it again before it was looked at
 *     (it is in swap, or in a file's cache only) is in that fetch as well: probes
 *     note which pages came.
 * (4) A page that goes away and comes back into the same frame between two
 *     looks: the frame was armed all the time, so whatever changed it since was
 *     reported. A page whose frame was given up counts as written, and what is
 *     known of the frame is dropped; the host's report of a frame that nobody
 *     has is forgotten.
 *
 * Permissions in page tables do not matter: frames that are mapped read-only are
 * armed as well, since an upgrade in place needs no new frame and tells nobody.
 * The zero page is never written, and is no frame. Memory that the probes do not
 * see (hugetlb, mappings of drivers) is looked at in every fetch.
 *
 * Locks, in their order:
 *   space->lock   one call at a time on an open file; its groups and marks
 *   mmap_lock     of the Tracked, for reading, while page tables are looked at
 *   host_lock     the ring of the host and its hypercalls (host.c)
 *   frame_lock    which page is in which frame, and the bits of all groups
 * Under page-table locks, in probes and in notifiers nothing of these is taken:
 * there only marks are made, in an xarray with a lock of its own.
 */
#ifndef OOH_H
#define OOH_H

#include <linux/bits.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include <linux/ooh.h>

#define OOH_GROUP_PAGES	64
#define OOH_GROUP_SHIFT	(PAGE_SHIFT + 6)
#define OOH_GROUP_SIZE	(1UL << OOH_GROUP_SHIFT)

/* A page of a space, in the list of those that are in the same frame. */
struct ooh_page {
	struct ooh_page *next, *prev;	/* prev: NULL in the first */
	u64 pfn : 52;			/* 0: in no frame */
	u64 slot : 6;			/* in its group; never changes */
};

/* frame_lock, and for pages and the group itself also space->lock */
struct ooh_group {
	struct ooh_space *space;
	unsigned long index;		/* address >> OOH_GROUP_SHIFT */
	u64 used;			/* pages that are in a frame */
	u64 dirty;			/* to be reported */
	u64 unarmed;			/* in a frame that the host does not watch (yet): dirty, too */
	u64 logged;			/* watched by their dirty bits (epml.c), not by the host */
	u64 leaving;			/* of these, in the frame's list until the host's next report */
	u64 swapped;			/* in no frame, but in swap (or on the way to another frame) */
	struct ooh_page page[OOH_GROUP_PAGES];
};

/* Marks in ooh_space.groups: a group with bits in ->dirty, in ->unarmed, in ->leaving. */
#define OOH_DIRTY	XA_MARK_0
#define OOH_UNARMED	XA_MARK_1
#define OOH_LEAVING	XA_MARK_2

struct ooh_space {
	struct mutex lock;
	struct mm_struct *mm;		/* a reference on the structure, not on its contents */
	struct mmu_notifier notifier;
	struct hlist_node by_mm;	/* in the table of spaces, RCU */

	struct xarray groups;		/* of struct ooh_group, by index */
	struct xarray marks;		/* by index of group: any value */
	bool all_marked;		/* there was no memory for a mark, or it is all of it */
	struct xarray came;		/* by 32 pages, which came into a frame */
	bool all_came;			/* any of them may have */
	bool unsure;			/* and there was no memory to note which */
	struct ooh_log __percpu *log;	/* NULL: the host watches all of it; set once */
	struct xarray written;		/* with a log: by 32 pages, which were written */
	struct xarray foreign;		/* so, those that are not watched by their dirty bits */
	bool all_written;		/* there was no memory for that */
	bool all_foreign;
	bool polled;			/* somebody wants to be told of a first entry in the log */
	bool log_news;			/* there is one since the last fetch */
	bool ended;			/* the address space is going away */
	bool given_last;		/* and a fetch has said so */

	u64 lost;			/* ooh_host_lost() at the last fetch */
	unsigned long rest;		/* where OOH_FETCH_REST goes on */
	wait_queue_head_t *wait;	/* for pollers; of the open file */
	const struct vm_operations_struct *own_ops; /* mappings that are not tracked */
	struct ooh_ring_buffer *ring;
	struct ooh_stats_args stats;
};

/* What the page tables say of one group. */
struct ooh_look {
	unsigned long pfn[OOH_GROUP_PAGES];	/* 0: none */
	u64 pages;				/* that were looked at; of others nothing is said */
	u64 tracked;				/* pages that lie in a mapping that is tracked */
	u64 hidden;				/* in no frame that is mapped, but they may have contents */
	u64 swapped;				/* of these, what an entry of the page tables says */
	u64 came;				/* were in a frame at some time since the last look */
	u64 logged;				/* pages to be watched by their dirty bits */
	u64 dirty;				/* those of them that were dirty; they are clean now */
};

/* walk.c: page tables. mmap_lock is held. */
void ooh_look(struct ooh_space *space, unsigned long index, u64 pages, struct ooh_look *look);
unsigned long ooh_next_present(struct mm_struct *mm, unsigned long addr, unsigned long end);
bool ooh_vma_tracked(struct ooh_space *space, struct vm_area_struct *vma);
bool ooh_vma_unseen(struct vm_area_struct *vma);

/* frame.c */
extern struct mutex ooh_frame_lock;
int ooh_frame_add(unsigned long pfn, struct ooh_page *page);
void ooh_frame_del(struct ooh_page *page);
bool ooh_frame_written(unsigned long pfn);
bool ooh_frame_known(unsigned long pfn);
void ooh_frame_armed(unsigned long pfn);
void ooh_frames_lost(void);

/* group.c: frame_lock is held, but for ooh_group_of() */
static inline struct ooh_group *ooh_group_of_page(struct ooh_page *page)
{
	return container_of(page - page->slot, struct ooh_group, page[0]);
}

struct ooh_group *ooh_group_get(struct ooh_space *space, unsigned long index);
void ooh_group_set_dirty(struct ooh_group *group, u64 bits);
void ooh_group_set_unarmed(struct ooh_group *group, u64 bits);
void ooh_group_clear(struct ooh_group *group, u64 dirty, u64 unarmed);
int ooh_group_update(struct ooh_group *group, const struct ooh_look *look);
void ooh_group_leave(struct ooh_group *group);
bool ooh_group_put(struct ooh_group *group);
void ooh_groups_free(struct ooh_space *space);
int ooh_groups_init(void);
void ooh_groups_exit(void);

/* space.c */
struct ooh_space *ooh_space_new(struct mm_struct *mm, struct ooh_ring_buffer *ring,
				wait_queue_head_t *wait, const struct vm_operations_struct *own_ops,
				bool log);
void ooh_space_free(struct ooh_space *space);
int ooh_space_fetch(struct ooh_space *space, struct ooh_fetch_args *args);
void ooh_space_stats(struct ooh_space *space, struct ooh_stats_args *stats);
__poll_t ooh_space_poll(struct ooh_space *space);
void ooh_spaces_mark(struct mm_struct *mm, unsigned long start, unsigned long end);
void ooh_spaces_wake(void);
void ooh_spaces_wake_dirty(const struct ooh_space *but);
struct ooh_space *ooh_space_logged(struct mm_struct *mm);
u64 ooh_space_foreign(struct ooh_space *space, unsigned long index);
void ooh_space_written(struct ooh_space *space, unsigned long start, unsigned long end);
void ooh_spaces_written(struct mm_struct *mm, unsigned long start, unsigned long end);
void ooh_spaces_foreign(struct mm_struct *mm, unsigned long start, unsigned long end);

/* probe.c */
int ooh_probes_init(void);
void ooh_probes_exit(void);
int ooh_probes_on(void);
void ooh_probes_off(void);
bool ooh_probes_moving(void);

/* epml.c */
int ooh_logs_init(void);
void ooh_logs_exit(void);
int ooh_logs_get(void);
void ooh_logs_put(void);
bool ooh_log_news(struct ooh_space *space);
int ooh_log_new(struct ooh_space *space);
void ooh_log_start(void);
void ooh_log_free(struct ooh_space *space);
bool ooh_log_take(struct ooh_space *space);
void ooh_log_flush(struct ooh_space *space);
bool ooh_log_clean(pte_t *ptep);
bool ooh_log_watches(struct vm_area_struct *vma, pte_t pte);

/* host.c */
u32 ooh_host_features(void);
int ooh_host_on(void);
void ooh_host_off(void);
int ooh_host_arm(struct ooh_space *space, unsigned long first, unsigned long last);
int ooh_host_fetch(struct ooh_space *space);
u64 ooh_host_lost(void);
bool ooh_host_blind(void);

/* irq.c: host_lock is held, but for ooh_irq_news() */
int ooh_irq_on(void);
void ooh_irq_off(void);
int ooh_irq_tell(void);
void ooh_irq_fetch(void);
void ooh_irq_forgotten(void);
bool ooh_irq_news(void);

/* ring.c: the records that one open file's reader gets */
#define OOH_MAX_ORDER		10
#define OOH_DEFAULT_ORDER	4

struct ooh_ring_buffer *ooh_ring_new(unsigned int order);
void ooh_ring_free(struct ooh_ring_buffer *ring);
int ooh_ring_mmap(struct ooh_ring_buffer *ring, struct vm_area_struct *vma);
size_t ooh_ring_bytes(const struct ooh_ring_buffer *ring);
int ooh_ring_begin(struct ooh_ring_buffer *ring);
u64 ooh_ring_add(struct ooh_ring_buffer *ring, unsigned long base, u64 pages);
u32 ooh_ring_end(struct ooh_ring_buffer *ring, u64 epoch);

#endif
