/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * /dev/ooh: which pages of a process were written, from the host's Page
 * Modification Log (module ooh.ko; the VM needs "-cpu ...,+kvm-ooh").
 *
 * An open file tracks one address space. OOH_TRACK names it, once; each
 * OOH_FETCH puts the pages that were written since the one before into a ring
 * that is mmapped, and has them tracked again before it returns. Contents are
 * to be read after OOH_FETCH, not before. Closing the file ends it.
 *
 * What a fetch promises: a page that is in the address space, and whose contents
 * are not those that it had when the last fetch (or OOH_TRACK) returned, is in
 * the set, whoever changed them. Pages that were not written may be in the set:
 * those that are there for the first time, or in another frame. Pages that were
 * unmapped are not in the set if their place is not mapped any more. A page of a
 * shared mapping that the process has never touched, or that was taken from its
 * page tables and not touched since, is in the set when it is touched again,
 * though others may have written to the file before.
 *
 * Not tracked: memory of devices and of the kernel that the process may only
 * read (vvar); the ring itself.
 */
#ifndef _UAPI_LINUX_OOH_H
#define _UAPI_LINUX_OOH_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define OOH_DEVICE	"/dev/ooh"
#define OOH_ABI		1

/* ooh_info.features */
#define OOH_F_SPML	(1u << 0)	/* the host's log */
#define OOH_F_EPML	(1u << 1)	/* the CPU logs addresses of the process */

struct ooh_info {
	__u32 abi;		/* OOH_ABI */
	__u32 features;		/* OOH_F_* that this VM has; 0: OOH_TRACK is refused */
	__u32 page_size;
	__u32 max_order;	/* of a ring */
	__u64 reserved[4];
};

/*
 * Track the address space of pid, a thread or a process as the caller's /proc
 * names it; 0: the caller's own. All threads of it, not its children: a child
 * has an address space of its own, which another open file may track. Whatever
 * is written after OOH_TRACK returned is in a fetch.
 *
 * EBUSY: this file tracks already. ESRCH: no such process, or one of the kernel.
 * EACCES, EPERM: the caller may not read the process's memory map (the right
 * that /proc/PID/pagemap asks for: ptrace's PTRACE_MODE_READ_FSCREDS).
 * EOPNOTSUPP: the host has nothing of what flags ask for, or the VM has devices
 * that write to its memory without the host seeing it (vhost, assigned ones).
 * EINVAL: unknown flags, more than one back-end, a ring_order above max_order.
 */
struct ooh_track_args {
	__s32 pid;
	__u32 flags;		/* OOH_F_SPML or OOH_F_EPML: only that; 0: the best */
	__u32 ring_order;	/* 2^ring_order pages of records */
	__u32 features;		/* out: the one that is used */
	__u64 ring_bytes;	/* out: what to mmap */
	__u64 reserved[2];
};

/*
 * What is mmapped at offset 0, ring_bytes long and shared: one page with this,
 * then the records. The kernel writes records and head, the reader moves tail
 * when it has read what is before it. Both run freely; the record i is at
 * i & (size - 1). The kernel believes nothing that is written here but tail.
 */
struct ooh_ring {
	__u32 head;
	__u32 tail;
	__u32 size;		/* records, a power of two */
	__u32 pad;
	__u64 epoch;		/* of the last fetch */
};

/* [start, end): whole pages */
struct ooh_record {
	__u64 start;
	__u64 end;
};

/* ooh_fetch_args.flags */
#define OOH_FETCH_REST		(1u << 0)	/* the rest of the epoch, after OOH_FETCHED_MORE */
#define OOH_FETCH_DISCARD	(1u << 1)	/* forget it: no records */

/* ooh_fetch_args.status */
#define OOH_FETCHED_MORE	(1u << 0)	/* the ring is full: read it, then OOH_FETCH_REST */
/*
 * The host lost track (the VM was migrated): all that is present is reported. Or the
 * module had no memory for a note: what is not present may have been written as well.
 */
#define OOH_FETCHED_LOST	(1u << 1)
#define OOH_FETCHED_LAST	(1u << 2)	/* the address space has ended; from now on ESRCH */

/*
 * The pages of [start, end), or all if both are 0, that were written: records,
 * sorted and merged, from the ring's head on. What was written elsewhere is kept.
 * OOH_FETCH_REST goes on where the one before stopped, with the same range, and
 * asks nobody for news.
 *
 * ENXIO: nothing is tracked. ESRCH: the address space has ended, and what was
 * known of it has been fetched. EINVAL: flags, a range that is not of whole pages,
 * or a tail that is not between head - size and head. EINTR: nothing is lost.
 */
struct ooh_fetch_args {
	__u64 start;
	__u64 end;
	__u32 flags;
	__u32 status;		/* out */
	__u64 epoch;		/* out: counts from 1 */
	__u64 pages;		/* out: in the records of this call */
	__u32 records;		/* out */
	__u32 pad;
	__u64 reserved[2];
};

/* Since OOH_TRACK. */
struct ooh_stats_args {
	__u64 epochs;
	__u64 pages;		/* reported */
	__u64 records;
	__u64 fresh;		/* pages that counted as written since they were new in their place */
	__u64 gone;		/* pages that counted as written since they went away */
	__u64 unarmed;		/* pages that the host cannot watch, reported in each fetch */
	__u64 more;		/* how often the ring was full */
	__u64 lost;		/* how often the host lost track */
	__u64 walked;		/* groups of 64 pages whose page tables were looked at */
	__u64 armed;		/* pages that are watched now */
	__u64 reserved[6];
};

#define OOH_INFO	_IOR(0xd9, 0x00, struct ooh_info)
#define OOH_TRACK	_IOWR(0xd9, 0x01, struct ooh_track_args)
#define OOH_FETCH	_IOWR(0xd9, 0x02, struct ooh_fetch_args)
#define OOH_UNTRACK	_IO(0xd9, 0x03)
#define OOH_STATS	_IOR(0xd9, 0x04, struct ooh_stats_args)

/*
 * poll: EPOLLIN when something was written, or may have been, since the last
 * fetch; EPOLLHUP when the address space has ended; EPOLLERR when nothing is
 * tracked.
 */

#endif
