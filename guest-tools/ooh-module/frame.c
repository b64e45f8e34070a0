// SPDX-License-Identifier: GPL-2.0
/* Frames of the guest, and the pages of tracked spaces that were seen in them. */
#include <linux/lockdep.h>
#include <linux/sched.h>

#include "ooh.h"

/*
 * The list of a frame's pages begins in the table and has no other head. All
 * pages of a frame are armed or none is: that is a property of the frame, kept
 * in each group so that a group's pages to arm are found without looking here.
 */
static DEFINE_XARRAY_FLAGS(frames, XA_FLAGS_ACCOUNT);
DEFINE_MUTEX(ooh_frame_lock);

static bool armed(struct ooh_page *page)
{
	return !(ooh_group_of_page(page)->unarmed & BIT_ULL(page->slot));
}

int ooh_frame_add(unsigned long pfn, struct ooh_page *page)
{
	struct ooh_group *group = ooh_group_of_page(page);
	struct ooh_page *first;
	int err;

	lockdep_assert_held(&ooh_frame_lock);
	first = xa_load(&frames, pfn);
	if (first) {
		page->next = first->next;
		page->prev = first;
		if (first->next)
			first->next->prev = page;
		first->next = page;
	} else {
		err = xa_err(xa_store(&frames, pfn, page, GFP_KERNEL_ACCOUNT));
		if (err)
			return err;
		page->next = NULL;
		page->prev = NULL;
	}
	page->pfn = pfn;
	group->used |= BIT_ULL(page->slot);
	if (!first || !armed(first))
		ooh_group_set_unarmed(group, BIT_ULL(page->slot));
	return 0;
}

void ooh_frame_del(struct ooh_page *page)
{
	struct ooh_group *group = ooh_group_of_page(page);

	lockdep_assert_held(&ooh_frame_lock);
	if (page->next)
		page->next->prev = page->prev;
	if (page->prev)
		page->prev->next = page->next;
	else if (page->next)
		/* An entry that is there is replaced: that needs no memory. */
		xa_store(&frames, page->pfn, page->next, GFP_KERNEL);
	else
		xa_erase(&frames, page->pfn);
	page->next = NULL;
	page->prev = NULL;
	page->pfn = 0;
	group->used &= ~BIT_ULL(page->slot);
	ooh_group_clear(group, 0, BIT_ULL(page->slot));
}

/* The host reported it. False: nobody here has it. */
bool ooh_frame_written(unsigned long pfn)
{
	struct ooh_page *page;

	lockdep_assert_held(&ooh_frame_lock);
	page = xa_load(&frames, pfn);
	if (!page)
		return false;
	for (; page; page = page->next)
		ooh_group_set_dirty(ooh_group_of_page(page), BIT_ULL(page->slot));
	return true;
}

bool ooh_frame_known(unsigned long pfn)
{
	lockdep_assert_held(&ooh_frame_lock);
	return xa_load(&frames, pfn);
}

void ooh_frame_armed(unsigned long pfn)
{
	struct ooh_page *page;

	lockdep_assert_held(&ooh_frame_lock);
	for (page = xa_load(&frames, pfn); page; page = page->next)
		ooh_group_clear(ooh_group_of_page(page), 0, BIT_ULL(page->slot));
}

/* The host watches nothing any more, and does not know what was written. */
void ooh_frames_lost(void)
{
	struct ooh_page *page;
	unsigned long pfn;

	lockdep_assert_held(&ooh_frame_lock);
	xa_for_each(&frames, pfn, page) {
		for (; page; page = page->next) {
			struct ooh_group *group = ooh_group_of_page(page);

			ooh_group_set_dirty(group, BIT_ULL(page->slot));
			ooh_group_set_unarmed(group, BIT_ULL(page->slot));
		}
		cond_resched();
	}
}
