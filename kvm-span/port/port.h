/* SPDX-License-Identifier: GPL-2.0 */
/*
 * span_port: the L1's side of KVM Span, internal declarations.
 *
 * Locks, outermost first:
 *
 *   call_lock   one SPAN_PORT_CALL at a time
 *   reg_lock    registers with a protocol (STATUS to NAME read together,
 *               ARGUMENT/COMMAND/RESULT, EVENT) and changes of attachment.
 *               Taken by open(), ioctl() and the interrupt thread
 *   ring_lock   indices of both rings and the waiting call
 *   mmap_lock   of a process (page faults arrive with it held)
 *   sem         read: to use the attachment (copy, fault, look); write: to
 *               change it. No user memory is touched under it, since a
 *               fault on the window takes it inside mmap_lock
 *
 * A change of attachment takes reg_lock, then sem for writing, drops sem and
 * unmaps; so no copy and no fault is half way through when the port is given
 * back, and no fault that comes later finds the old generation valid.
 */
#ifndef SPAN_PORT_INTERNAL_H
#define SPAN_PORT_INTERNAL_H

#include <linux/atomic.h>
#include <linux/cdev.h>
#include <linux/completion.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/memremap.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/wait.h>

#include <linux/span_port.h>

#define SPAN_PORT_MAX_PORTS	64

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
	struct span_msg asked;
	struct span_msg answer;
	u64 errors;		/* protocol errors of the other side */
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

/* ring.c */
int span_ring_init(struct span_port *port);
void span_ring_exit(struct span_port *port);
void span_ring_drain(struct span_port *port);
int span_ring_call(struct span_port *port, u32 generation,
		   struct span_port_call *call);

#endif
