/* SPDX-License-Identifier: GPL-2.0 */
/*
 * span_port: the L1's side of KVM Span, internal declarations.
 *
 * Locks, outermost first:
 *
 *   watch_lock  one request about watches at a time, with what it changes in
 *               the table of watches, and the data area of BAR 5. Held while
 *               L0 answers: CONTROL_TIMEOUT at most
 *   call_lock   one message that wants an answer at a time
 *   reg_lock    registers with a protocol (STATUS to NAME read together,
 *               ARGUMENT/COMMAND/RESULT, EVENT) and changes of attachment.
 *               Taken by open(), ioctl() and the interrupt thread
 *   ring_lock   indices of both rings of BAR 4 and the waiting call
 *   relay_lock  which relay there is; held while it is told of its end
 *   share->lock (spinlock, interrupts off) the stream and its descriptor
 *   event_lock  the table of watches, and the ring of events: one consumer
 *   answer_lock the ring of answers: one producer
 *   watch->lock (spinlock) a watch's queue of events, and whether it is dead
 *   mmap_lock   of a process (page faults arrive with it held)
 *   sem         read: to use the attachment (copy, fault, look); write: to
 *               change it. No user memory is touched under it, since a
 *               fault on the window takes it inside mmap_lock
 *
 * User memory is touched under none of them. The interrupt thread of events
 * takes event_lock and watch->lock alone, so that neither a slow L0 nor an
 * unmapping holds up an event.
 *
 * A change of attachment takes reg_lock, then sem for writing, drops sem and
 * unmaps; so no copy and no fault is half way through when the port is given
 * back, and no fault that comes later finds the old generation valid. Then it
 * ends a call that waits for the old attachment's L0 and all its watches.
 */
#ifndef SPAN_PORT_INTERNAL_H
#define SPAN_PORT_INTERNAL_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/cdev.h>
#include <linux/completion.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/kref.h>
#include <linux/memremap.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <linux/span_port.h>
#include <linux/span_stream.h>

#define SPAN_PORT_MAX_PORTS	64
#define SPAN_WATCH_IDS		64	/* a watch's id is from 1 to this less one */

/* What the device said last. bytes is 0 and generation 0 while detached. */
struct span_attachment {
	u32 status;
	u32 generation;		/* of a live attachment, else 0 */
	u64 bytes;
	u8 name[SPAN_NAME_LEN];
};

struct span_port_ring {
	struct span_ring *to_l0;
	struct span_ring *to_l1;
	u32 head;		/* of to_l0: ours, never read back */
	u32 tail;		/* of to_l1: ours, never read back */
	u64 seq;
	u16 want;		/* type of the answer awaited, 0: none */
	bool aborted;		/* the attachment of the waiting call is over */
	bool silent;		/* a request was not answered, nor anything since */
	struct span_msg asked;
	u16 types[SPAN_RING_SLOTS];	/* of what was asked last, by seq */
	struct span_msg answer;
	u64 errors;		/* protocol errors of the other side */
};

/* BAR 5. Pointers are constant from probe to removal; NULL without F_WATCH. */
struct span_port_events {
	void *base;
	void *data;
	struct span_ring *answers;
	struct span_ring *events;

	/* event_lock; generation: of the attachment that has watches, else 0 */
	u32 generation;
	u32 tail;		/* of events: ours, never read back */
	u64 seq;		/* of the last event, 0: not known */
	u32 lost;		/* messages that L0 lost in this attachment */
	struct span_watch *watch[SPAN_WATCH_IDS];
	DECLARE_BITMAP(stray, SPAN_WATCH_IDS);	/* perhaps on L0, and nobody has them here */
	bool looked;		/* for those of a driver before this one */

	/* answer_lock */
	u32 answer_generation;
	u32 head;		/* of answers: ours, never read back */
	u64 answer_seq;

	struct work_struct stray_work;
	atomic64_t errors;	/* protocol errors of the other side */
};

struct span_watch_node {
	struct list_head all;
	struct list_head notices;	/* empty for an event that wants an answer */
	struct span_watch_event event;
};

/* One watch fd. */
struct span_watch {
	struct span_port *port;
	u32 id;			/* 0: L0 does not know it */
	u32 generation;
	wait_queue_head_t wait;

	spinlock_t lock;
	bool dead;		/* lock: the attachment is over */
	struct list_head queue;		/* lock: oldest first */
	struct list_head notices;	/* lock: those of queue that may be dropped */
	struct list_head free;		/* lock */
	u64 dropped;		/* lock: for want of room */
	struct span_watch_node *nodes;
};

/* The shared pages of BAR 5; outlives the port as long as somebody uses them. */
struct span_share {
	struct kref ref;
	void *pages;		/* constant */
	void __iomem *regs;	/* constant, a mapping of our own */

	struct mutex relay_lock;
	struct span_port_relay __rcu *relay;	/* relay_lock; the interrupt, under RCU */

	/* Of the attachment that has shared pages, else 0: changes under all three. */
	u32 generation;		/* reg_lock, relay_lock, lock */

	spinlock_t lock;
	struct span_channel *channel;	/* lock: open now */
	struct span_stream_end end;	/* lock */
	u32 number;			/* lock: of the last open */
};

struct span_port {
	struct device dev;	/* its release frees this structure */
	struct cdev cdev;
	struct pci_dev *pdev;
	struct inode *inode;	/* of all opens: one mapping to unmap */
	int id;

	void __iomem *regs;
	u32 version;
	u32 features;
	phys_addr_t window_phys;
	u64 window_bytes;
	void *window;		/* direct map of the whole BAR */
	struct dev_pagemap pgmap;

	struct mutex reg_lock;
	bool registers_lost;	/* reg_lock: reads gave no magic */

	struct rw_semaphore sem;
	struct span_attachment now;	/* sem */
	u32 last_generation;	/* sem: newest ever seen */
	u64 changes;		/* sem: counts changes of now, for poll() */
	bool gone;		/* sem and reg_lock: the PCI device is removed */
	wait_queue_head_t changed;

	struct mutex call_lock;
	struct mutex ring_lock;
	struct span_port_ring ring;	/* ring_lock */
	struct completion answered;

	struct mutex watch_lock;
	bool closing;		/* watch_lock: no new watches */
	struct mutex event_lock;
	struct mutex answer_lock;
	struct span_port_events ev;

	struct span_share *share;	/* from probe to removal; NULL without F_SHARE */

	atomic64_t faults_pte;
	atomic64_t faults_pmd;
};

/* One open file. generation 0: opened on an empty port. */
struct span_file {
	struct span_port *port;
	u32 generation;
	u64 seen;		/* sem: port->changes at the last GET_INFO */
};

/* state.c */
int span_port_state_init(struct span_port *port);
void span_port_refresh(struct span_port *port);
void span_port_set_gone(struct span_port *port);
int span_port_command(struct span_port *port, u32 command, u32 argument);
extern const struct attribute_group *span_port_groups[];

static inline bool span_attached(const struct span_attachment *a)
{
	return a->generation != 0;
}

/* Does the attachment come with the right to have watches? */
static inline bool span_may_watch(const struct span_attachment *a)
{
	return span_attached(a) && (a->status & SPAN_STATUS_WATCH);
}

/* Does the attachment come with shared pages? */
static inline bool span_may_share(const struct span_attachment *a)
{
	return span_attached(a) && (a->status & SPAN_STATUS_SHARE);
}

static inline bool span_readonly(const struct span_attachment *a)
{
	return a->status & SPAN_STATUS_READONLY;
}

/* Caller holds port->sem. */
static inline bool span_file_live(const struct span_file *sf)
{
	return !sf->port->gone && sf->generation &&
	       sf->generation == sf->port->now.generation;
}

/* The file had an attachment and it is over. Caller holds port->sem. */
static inline bool span_file_stale(const struct span_file *sf)
{
	return sf->port->gone ||
	       (sf->generation && sf->generation != sf->port->now.generation);
}

/* file.c, map.c */
extern const struct file_operations span_port_fops;
int span_port_mmap(struct file *file, struct vm_area_struct *vma);
int span_port_fetch_args(void *args, size_t known, const void __user *user, u32 *size);

/* ring.c */
int span_ring_init(struct span_port *port);
void span_ring_exit(struct span_port *port);
void span_ring_drain(struct span_port *port);
void span_ring_abort(struct span_port *port);
void span_ring_restart(struct span_port *port);
int span_ring_call(struct span_port *port, u32 generation,
		   struct span_port_call *call);
int span_ring_request(struct span_port *port, u32 generation, u16 type,
		      const void *payload, u16 len, struct span_msg_reply *reply);

static inline u32 span_ring_load(const __le32 *index)
{
	/* pairs with the producer's release: the slots before this index are there */
	return le32_to_cpu(virt_load_acquire(index));
}

static inline void span_ring_store(__le32 *index, u32 value)
{
	/* the slot is written (read) before the other side may read (write) it */
	virt_store_release(index, cpu_to_le32(value));
}

/* event.c */
int span_events_init(struct span_port *port);
void span_events_exit(struct span_port *port);
void span_events_follow(struct span_port *port);
void span_events_drain(struct span_port *port);
void span_events_stray(struct span_port *port, u64 id);
void span_events_left(struct span_port *port, u32 id);
void span_events_retry(struct span_port *port);
void span_events_reset(struct span_port *port);
int span_events_add(struct span_port *port, struct span_watch *w);
void span_events_remove(struct span_port *port, struct span_watch *w);
int span_events_answer(struct span_watch *w, const struct span_watch_answer *a,
		       unsigned int count);

/* share.c */
int span_share_init(struct span_port *port);
void span_share_exit(struct span_port *port);
irqreturn_t span_share_interrupt(int irq, void *data);
void span_share_reset(struct span_port *port);
void span_share_follow(struct span_port *port);
struct span_share *span_share_get(struct span_file *sf);
void span_share_put(struct span_share *share);
void span_share_ring(struct span_share *share);
bool span_share_there(struct span_share *share, u32 generation);

/* channel.c */
void span_channel_look(struct span_share *share);
void span_channel_follow(struct span_share *share, u32 generation);
int span_channel_open(struct span_file *sf);

/* watch.c */
int span_watch_open(struct span_port *port, u32 generation,
		    const struct span_port_watch *args);
void span_watch_end_all(struct span_port *port);
void span_watch_post(struct span_watch *w, const struct span_watch_event *event);
void span_watch_kill(struct span_watch *w);
int span_watch_destroy(struct span_port *port, u32 generation, u32 id);

#endif
