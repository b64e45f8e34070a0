// SPDX-License-Identifier: GPL-2.0
/* Groups of 64 pages: which frame each page was last seen in, and what is to be said of it. */
#include <linux/lockdep.h>
#include <linux/slab.h>

#include "ooh.h"

static struct kmem_cache *groups;

/* space->lock: only its holder adds and removes groups. */
struct ooh_group *ooh_group_get(struct ooh_space *space, unsigned long index)
{
	struct ooh_group *group = xa_load(&space->groups, index);
	unsigned int i;

	if (group)
		return group;
	group = kmem_cache_zalloc(groups, GFP_KERNEL_ACCOUNT);
	if (!group)
		return NULL;
	group->space = space;
	group->index = index;
	for (i = 0; i < OOH_GROUP_PAGES; i++)
		group->page[i].slot = i;
	if (xa_err(xa_store(&space->groups, index, group, GFP_KERNEL_ACCOUNT))) {
		kmem_cache_free(groups, group);
		return NULL;
	}
	return group;
}

void ooh_group_set_dirty(struct ooh_group *group, u64 bits)
{
	lockdep_assert_held(&ooh_frame_lock);
	if (!group->dirty)
		xa_set_mark(&group->space->groups, group->index, OOH_DIRTY);
	group->dirty |= bits;
}

void ooh_group_set_unarmed(struct ooh_group *group, u64 bits)
{
	lockdep_assert_held(&ooh_frame_lock);
	if (!group->unarmed)
		xa_set_mark(&group->space->groups, group->index, OOH_UNARMED);
	group->unarmed |= bits;
}

void ooh_group_clear(struct ooh_group *group, u64 dirty, u64 unarmed)
{
	lockdep_assert_held(&ooh_frame_lock);
	if (group->dirty && !(group->dirty & ~dirty))
		xa_clear_mark(&group->space->groups, group->index, OOH_DIRTY);
	if (group->unarmed && !(group->unarmed & ~unarmed))
		xa_clear_mark(&group->space->groups, group->index, OOH_UNARMED);
	group->dirty &= ~dirty;
	group->unarmed &= ~unarmed;
}

/* A page is in no frame any more, or is watched in another way. */
static void ooh_page_forget(struct ooh_page *page)
{
	struct ooh_group *group = ooh_group_of_page(page);
	u64 bit = BIT_ULL(page->slot);

	if (!(group->logged & bit) || group->leaving & bit)
		ooh_frame_del(page);
	page->pfn = 0;
	group->used &= ~bit;
	group->logged &= ~bit;
	group->leaving &= ~bit;
}

/*
 * The host has watched a page up to this look, which cleaned its dirty bit, and
 * the bit does from here on. What the bit said until now means nothing (a large
 * page that is taken apart gives its own to all parts), so the host's next report
 * has to be waited for.
 */
static void ooh_page_change_over(struct ooh_page *page)
{
	struct ooh_group *group = ooh_group_of_page(page);

	xa_set_mark(&group->space->groups, group->index, OOH_LEAVING);
	group->logged |= BIT_ULL(page->slot);
	group->leaving |= BIT_ULL(page->slot);
}

/* The host has told what it saw of such pages: it need not watch them any more. */
void ooh_group_leave(struct ooh_group *group)
{
	lockdep_assert_held(&ooh_frame_lock);
	for (u64 bits = group->leaving; bits; bits &= bits - 1) {
		struct ooh_page *page = &group->page[__ffs64(bits)];
		unsigned long pfn = page->pfn;

		ooh_frame_del(page);
		page->pfn = pfn;
		group->used |= BIT_ULL(page->slot);
	}
	group->leaving = 0;
	xa_clear_mark(&group->space->groups, group->index, OOH_LEAVING);
}

/*
 * Bring a group to what its page tables say. The look may be old: whatever
 * changed since has left a mark, and the next fetch looks again.
 */
int ooh_group_update(struct ooh_group *group, const struct ooh_look *look)
{
	struct ooh_stats_args *stats = &group->space->stats;
	u64 dirty = look->dirty & look->tracked, bits;
	int err = 0;

	lockdep_assert_held(&ooh_frame_lock);
	for (bits = look->pages; bits; bits &= bits - 1) {
		unsigned int i = __ffs64(bits);
		struct ooh_page *page = &group->page[i];
		bool log = look->logged & BIT_ULL(i);

		if (page->pfn == look->pfn[i] && (!page->pfn || log == !!(group->logged & BIT_ULL(i)))) {
			/*
			 * Not seen in a frame, but it was in one: nobody knows what it was given
			 * there. What was in swap and is not any more reads differently now.
			 */
			if (!page->pfn)
				dirty |= ((look->came & look->hidden) | (group->swapped & ~look->swapped)) &
					 look->tracked & BIT_ULL(i);
			continue;
		}
		if (page->pfn && page->pfn == look->pfn[i] && log) {
			ooh_page_change_over(page);
			dirty &= ~BIT_ULL(i);
			continue;
		}
		if (page->pfn) {
			ooh_page_forget(page);
			stats->armed--;
		}
		/* Also when there is no memory: the page is reported now, and its group stays marked. */
		dirty |= look->tracked & BIT_ULL(i);
		if (!look->pfn[i]) {
			stats->gone += !!(look->tracked & BIT_ULL(i));
			continue;
		}
		stats->fresh++;
		if (log) {
			page->pfn = look->pfn[i];
			group->used |= BIT_ULL(i);
			group->logged |= BIT_ULL(i);
		} else if (!err) {
			err = ooh_frame_add(look->pfn[i], page);
		}
		if (page->pfn)
			stats->armed++;
	}
	group->swapped = (group->swapped & ~look->pages) | (look->swapped & look->tracked & look->pages);
	if (dirty)
		ooh_group_set_dirty(group, dirty);
	/* Of what is not mapped any more there is nothing to say. */
	ooh_group_clear(group, ~look->tracked & look->pages, 0);
	return err;
}

/* True: there was nothing in it, and it is gone. space->lock is held. */
bool ooh_group_put(struct ooh_group *group)
{
	lockdep_assert_held(&ooh_frame_lock);
	if (group->used || group->dirty || group->swapped)
		return false;
	xa_erase(&group->space->groups, group->index);
	kmem_cache_free(groups, group);
	return true;
}

void ooh_groups_free(struct ooh_space *space)
{
	struct ooh_group *group;
	unsigned long index;
	unsigned int i;

	xa_for_each(&space->groups, index, group) {
		mutex_lock(&ooh_frame_lock);
		for (i = 0; i < OOH_GROUP_PAGES; i++)
			if (group->page[i].pfn)
				ooh_page_forget(&group->page[i]);
		ooh_group_clear(group, ~0ULL, ~0ULL);
		group->swapped = 0;
		ooh_group_put(group);
		mutex_unlock(&ooh_frame_lock);
		cond_resched();
	}
	xa_destroy(&space->groups);
}

int ooh_groups_init(void)
{
	groups = KMEM_CACHE(ooh_group, 0);
	return groups ? 0 : -ENOMEM;
}

void ooh_groups_exit(void)
{
	kmem_cache_destroy(groups);
}
