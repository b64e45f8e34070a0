/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The span-port: what an L1 sees of KVM Span. A PCI function that the L1's
 * QEMU on L0 provides ("-device span-port-pci"), and the character device that
 * the L1's span_port driver makes of it.
 *
 * The port is there, empty, from the L1's boot. When the controller of a Span
 * guest attaches the L1, the guest's memory appears at the start of the window
 * BAR; when it detaches, the BAR is empty again: reads give all ones, writes
 * go nowhere.
 *
 * Everything is little-endian. The device trusts nothing that the L1 writes,
 * and the L1 has to trust L0.
 */
#ifndef _UAPI_LINUX_SPAN_PORT_H
#define _UAPI_LINUX_SPAN_PORT_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* 1af4:10f0 to 10ff is the range for experimental devices. */
#define SPAN_PORT_PCI_VENDOR	0x1af4
#define SPAN_PORT_PCI_DEVICE	0x10f5
#define SPAN_PORT_PCI_REVISION	1

#define SPAN_PORT_BAR_REGS	0	/* 4 KiB, 32-bit */
#define SPAN_PORT_BAR_MSIX	1	/* 4 KiB, 32-bit */
#define SPAN_PORT_BAR_WINDOW	2	/* window-size, 64-bit prefetchable */
#define SPAN_PORT_BAR_RING	4	/* SPAN_RING_BYTES of RAM, 32-bit */
#define SPAN_PORT_BAR_WATCH	5	/* SPAN_WATCH_BAR_BYTES, 32-bit; see below */

/* Registers: naturally aligned 4-byte access; other accesses read 0. */
#define SPAN_REG_MAGIC		0x00	/* R: SPAN_PORT_MAGIC */
#define SPAN_REG_VERSION	0x04	/* R: SPAN_PORT_VERSION */
#define SPAN_REG_FEATURES	0x08	/* R: SPAN_PORT_F_* */
#define SPAN_REG_STATUS		0x0c	/* R: SPAN_STATUS_* */
#define SPAN_REG_GENERATION	0x10	/* R: attachments so far; 0: never attached */
#define SPAN_REG_EVENT		0x14	/* R, write 1 to clear: SPAN_EVENT_* */
#define SPAN_REG_SIZE_LO	0x18	/* R: attached bytes, 0 when detached */
#define SPAN_REG_SIZE_HI	0x1c
#define SPAN_REG_COMMAND	0x20	/* W: SPAN_CMD_*; R: 0 */
#define SPAN_REG_RESULT		0x24	/* R: of the last command, 0 or an errno */
#define SPAN_REG_DOORBELL	0x28	/* W: any value: look at the to-L0 ring */
#define SPAN_REG_ARGUMENT	0x2c	/* RW: of the next command */
#define SPAN_REG_ANSWER		0x30	/* W: any value: look at the ring of answers */
#define SPAN_REG_SHARE		0x34	/* W: any value: look into the shared pages */
#define SPAN_REG_NAME		0x40	/* R: guest's name, SPAN_NAME_LEN bytes */

#define SPAN_PORT_MAGIC		0x4e415053	/* "SPAN" */
#define SPAN_PORT_VERSION	1
#define SPAN_NAME_LEN		32

#define SPAN_PORT_F_WINDOW	(1u << 0)
#define SPAN_PORT_F_RING	(1u << 1)
#define SPAN_PORT_F_WATCH	(1u << 2)	/* BAR 5, vector 2, SPAN_MSG_WATCH_* */
#define SPAN_PORT_F_SHARE	(1u << 3)	/* shared pages in BAR 5, vector 3 */

#define SPAN_STATUS_ATTACHED	(1u << 0)	/* the window holds a guest */
#define SPAN_STATUS_READONLY	(1u << 1)	/* writes are discarded by L0 */
#define SPAN_STATUS_DETACHING	(1u << 2)	/* unmap, then SPAN_CMD_DETACH_ACK */
#define SPAN_STATUS_WATCH	(1u << 3)	/* this attachment may have watches */
#define SPAN_STATUS_SHARE	(1u << 4)	/* it may own vCPUs: the shared pages are there */

#define SPAN_EVENT_STATE	(1u << 0)	/* STATUS or GENERATION changed */
#define SPAN_EVENT_RING		(1u << 1)	/* a message is in the to-L1 ring */

#define SPAN_CMD_NONE		0
/* Answer to DETACHING. Argument: the generation. Never awaited for long. */
#define SPAN_CMD_DETACH_ACK	1
/* Ask the guest's controller to detach this L1. Argument: the generation. */
#define SPAN_CMD_DETACH_REQUEST	2
/* Start both rings again from zero, e.g. after a driver reload. */
#define SPAN_CMD_RING_RESET	3

#define SPAN_VECTOR_STATE	0
#define SPAN_VECTOR_RING	1
#define SPAN_VECTOR_WATCH	2	/* a message is in the ring of events */
#define SPAN_VECTOR_SHARE	3	/* something is in the shared pages */
#define SPAN_VECTORS		4

/*
 * Rings: BAR 4 holds two single-producer single-consumer rings, to L0 (the L1
 * produces) at 0 and to L1 (L0 produces) at SPAN_RING_BYTES / 2. Indices count
 * messages from 0 and wrap at 2^32; slot = index % SPAN_RING_SLOTS. The ring is
 * empty when head == tail and full when head - tail == SPAN_RING_SLOTS; any
 * other difference is a protocol error: the reader counts it and resets the
 * ring. A reader copies a slot once and looks only at the copy.
 */
#define SPAN_RING_BYTES		32768
#define SPAN_RING_SLOTS		128
#define SPAN_MSG_BYTES		64

struct span_msg {
	__le16 type;		/* SPAN_MSG_* */
	__le16 len;		/* bytes used of payload */
	__le32 generation;	/* of the attachment it speaks of, or 0 */
	__le64 seq;		/* +1 per message of one producer, from 1 */
	__u8 payload[48];
};

struct span_ring {
	__le32 head;		/* next index to produce; written by the producer */
	__u8 pad0[60];
	__le32 tail;		/* next index to consume; written by the consumer */
	__u8 pad1[60];
	__u8 pad2[SPAN_RING_BYTES / 2 - 128 - SPAN_RING_SLOTS * SPAN_MSG_BYTES];
	struct span_msg slot[SPAN_RING_SLOTS];
};

/* to L0: answered with PONG and the same payload */
#define SPAN_MSG_PING		1
#define SPAN_MSG_PONG		2
/* to L1: 4 x __le64 counters of the port: received, sent, dropped, malformed */
#define SPAN_MSG_STATS_GET	3
#define SPAN_MSG_STATS		4
/* to L1, at the next chance after messages of the L1 were thrown away */
#define SPAN_MSG_ERROR		5	/* payload: __le32 errno, __le32 count */

/*
 * Watches: subscriptions to memory events, protection and logs of written
 * pages. What they mean is told in <linux/kvm_span.h>; the numbers are the
 * same. They are made by messages in the to-L0 ring, each answered by one
 * SPAN_MSG_REPLY, one at a time. An L1 has what its attachment was granted
 * (EPERM otherwise); a watch ends with the attachment.
 *
 * BAR 5, while SPAN_STATUS_WATCH is set: at 0 the rings of answers (the L1
 * produces) and of events (L0's kernel produces), in the format of BAR 4;
 * generation is 0 and seq starts at 1 with the attachment. Writing SPAN_REG_ANSWER
 * tells L0 to look for answers. At SPAN_WATCH_DATA, always there, the room for
 * what does not fit into a reply.
 */
#define SPAN_WATCH_BAR_BYTES	524288
#define SPAN_WATCH_DATA		65536
#define SPAN_WATCH_DATA_BYTES	65536

#define SPAN_ACCESS_R		(1u << 0)
#define SPAN_ACCESS_W		(1u << 1)
#define SPAN_ACCESS_X		(1u << 2)

#define SPAN_ALLOW		1
#define SPAN_DENY		2

#define SPAN_MODE_BLOCK		1
#define SPAN_MODE_NOTIFY	2
#define SPAN_MODE_LOG		3

/* Who touched the page. */
#define SPAN_SOURCE_GUEST_L0	1	/* the guest, its vCPU run by L0 */
#define SPAN_SOURCE_GUEST_L1	2	/* the guest, its vCPU run by an L1 */
#define SPAN_SOURCE_L1		3	/* another L1, through its window */
#define SPAN_SOURCE_L0		4	/* the guest's controller on L0 */

#define SPAN_EVENT_F_NOTICE	(1u << 0)	/* goes on, no answer wanted */
#define SPAN_EVENT_F_VIOLATION	(1u << 1)	/* was denied by this watch's protect */
#define SPAN_EVENT_F_AFTER	(1u << 2)	/* has happened already */
#define SPAN_EVENT_F_WALK	(1u << 3)	/* by the page-table walk of the guest */
#define SPAN_EVENT_F_DELIVERY	(1u << 4)	/* while an interrupt was delivered */

/* events, to L1 */
#define SPAN_MSG_EVENT		16
struct span_msg_event {
	__le64 event;		/* to be named in the answer; 0 in notices */
	__le32 watch;
	__u8 access;		/* one of SPAN_ACCESS_* */
	__u8 source;		/* SPAN_SOURCE_* */
	__le16 vcpu;		/* of the guest; 0xffff: of no vCPU, or another L1's */
	__le32 page;		/* of the guest's memory file */
	__le32 flags;		/* SPAN_EVENT_F_* */
	__le64 gpa;		/* guest-physical address; ~0: not known */
	__le64 rip;		/* of the guest; 0 when not by the guest */
	__le64 cr3;		/* of the guest; 0 when not by the guest */
};

/* answers, to L0 */
#define SPAN_MSG_ANSWER		17
#define SPAN_ANSWER_CANCEL	(1u << 0)	/* the page leaves the subscription */
struct span_msg_answer {
	__le64 event;
	__le32 watch;
	__u8 verdict;		/* SPAN_ALLOW or SPAN_DENY */
	__u8 flags;		/* SPAN_ANSWER_* */
	__le16 pad;		/* 0 */
};

/*
 * to L1, when there is room again: count messages found the ring full. Accesses
 * that would have waited went by the watch's on_timeout; of notices, any page
 * that is subscribed may have been meant.
 */
#define SPAN_MSG_LOST		18
struct span_msg_lost {
	__le64 count;
};

/* control, to L0; each answered by SPAN_MSG_REPLY */
#define SPAN_MSG_WATCH_CREATE	32	/* reply: value[0] = watch */
#define SPAN_MSG_WATCH_DESTROY	33
#define SPAN_MSG_SUBSCRIBE	34
#define SPAN_MSG_UNSUBSCRIBE	35
#define SPAN_MSG_PROTECT	36
#define SPAN_MSG_LOG_FETCH	37	/* data: struct span_log_range[] */
#define SPAN_MSG_WATCH_INFO	38	/* data: struct span_watch_info, little-endian */
#define SPAN_MSG_REPLY		48

struct span_msg_watch_create {
	__le32 deadline_us;	/* 0: the default */
	__le32 on_timeout;	/* SPAN_ALLOW or SPAN_DENY */
};

/* WATCH_DESTROY, SUBSCRIBE, UNSUBSCRIBE, PROTECT, LOG_FETCH, WATCH_INFO */
struct span_msg_watch {
	__le32 watch;
	__le32 access;		/* SPAN_ACCESS_*, 0 where it has no meaning */
	__le32 mode;		/* SPAN_MODE_*, 0 where it has no meaning */
	__le32 max;		/* LOG_FETCH: ranges at most, else 0 */
	__le64 first;
	__le64 pages;
};

struct span_msg_reply {
	__le32 error;		/* 0 or an errno of <linux/kvm_span.h> */
	__le32 seq;		/* low half of the answered message's: none is taken for another */
	__le64 value[4];	/* LOG_FETCH: count, next, dirty; else see above */
};

/* Data of LOG_FETCH: value[0] of these. */
struct span_log_range {
	__le64 first;
	__le64 pages;
};
#define SPAN_LOG_MAX_RANGES	(SPAN_WATCH_DATA_BYTES / 16)

/*
 * Shared pages: BAR 5 at SPAN_SHARE_OFFSET, while SPAN_STATUS_SHARE is set. L0's
 * end is its kernel. Writing SPAN_REG_SHARE tells L0 to look, interrupt
 * SPAN_VECTOR_SHARE tells the L1.
 *
 * Posts are interrupts for vCPUs that the other side has, or can reach: a set
 * of bits per vCPU, as in a posted-interrupt descriptor (SDM 3, 30.6), that
 * cannot overflow. The sender sets bits in irr[] or event, then the vCPU's bit in
 * pending, each atomically, and rings if that was clear. The receiver takes
 * pending, then irr[] and event, each by an atomic exchange with 0. A bit in
 * level[] says how its vector is triggered; the sender sets or clears it before
 * the bit in irr[], the receiver leaves it as it is. It believes nothing: a bit
 * for a vCPU that the sender has no business with is thrown away and counted.
 *
 * Streams are bytes: head counts what was put in, tail what was taken out, both
 * modulo 2^32; head - tail is at most SPAN_STREAM_BYTES. The number in start is
 * chosen by the end that opens; see KVM_SPAN_CHANNEL.
 */
#define SPAN_SHARE_OFFSET	0x40000
#define SPAN_SHARE_BYTES	0x30000
#define SPAN_POSTS_TO_L0	0x00000		/* struct span_posts, below */
#define SPAN_POSTS_TO_L1	0x04000
#define SPAN_STREAM_TO_L0	0x08000		/* struct span_stream */
#define SPAN_STREAM_TO_L1	0x09000
#define SPAN_BYTES_TO_L0	0x10000		/* SPAN_STREAM_BYTES of data */
#define SPAN_BYTES_TO_L1	0x20000
#define SPAN_STREAM_BYTES	0x10000

#define SPAN_MAX_VCPUS		64

#define SPAN_POST_NMI		(1u << 0)
#define SPAN_POST_SMI		(1u << 1)
#define SPAN_POST_INIT		(1u << 2)
#define SPAN_POST_SIPI		(1u << 3)	/* after INIT, if both; sipi_vector */
#define SPAN_POST_KICK		(1u << 5)	/* KVM_HC_KICK_CPU */
#define SPAN_POST_APIC		(1u << 6)	/* apic, ldr, dfr, spiv are new */

#define SPAN_APIC_ENABLED	(1u << 0)
#define SPAN_APIC_X2APIC	(1u << 1)
#define SPAN_APIC_ANSWERED	(1u << 2)	/* set by a receiver that has them */
#define SPAN_APIC_COUNT_SHIFT	8		/* of 8 bits, another one each time */
#define SPAN_APIC_ID_SHIFT	24
#define SPAN_APIC_ID		0xff000000u	/* xAPIC id; 0 in x2APIC mode */

struct span_post {
	__le64 irr[4];
	__le64 level[4];
	__le32 event;		/* SPAN_POST_* */
	__le32 sipi_vector;
	__le32 apic;		/* SPAN_APIC_*: how others address this vCPU */
	__le32 ldr;
	__le32 dfr;
	__le32 spiv;
	__u8 pad[40];
};

struct span_posts {
	__le64 pending;		/* bit n: look at vcpu[n] */
	__u8 pad[120];
	struct span_post vcpu[SPAN_MAX_VCPUS];
};

struct span_stream {
	__le32 head;		/* written by the producer */
	__le32 start;		/* by the producer: nonzero while its end is open */
	__u8 pad0[56];
	__le32 tail;		/* written by the consumer */
	__le32 seen;		/* by the consumer: the start it reads from */
	__u8 pad1[56];
};

/*
 * /dev/spanN in the L1. mmap(MAP_SHARED) maps the window at the guest's memory
 * offsets, write-back cached, in 2 MiB pages where alignment allows; PROT_WRITE
 * needs an attachment with write access (EACCES). read(), write() and llseek()
 * work as on a file of the guest's size. An open file belongs to the attachment
 * it was opened in: after a detach its calls give ENODEV and its mappings
 * SIGBUS, also when another guest was attached meanwhile. open() without an
 * attachment gives ENODEV unless O_PATH-like waiting is wanted: O_RDONLY |
 * O_NONBLOCK opens an empty port, for SPAN_PORT_GET_INFO and poll().
 * poll(): POLLPRI when the state changed since the last SPAN_PORT_GET_INFO on
 * that file, POLLHUP when the file's attachment is over.
 */
struct span_port_info {
	__u32 size;		/* in: of this structure */
	__u32 flags;		/* in: 0 */
	__u32 version;		/* SPAN_PORT_VERSION of the device */
	__u32 features;		/* SPAN_PORT_F_* of the device */
	__u32 status;		/* SPAN_STATUS_* */
	__u32 generation;
	__u64 bytes;		/* attached now */
	__u64 window_bytes;	/* size of the BAR */
	__u64 window_phys;	/* its address in the L1 */
	__u64 faults_pte;	/* page faults served with 4 KiB */
	__u64 faults_pmd;	/* page faults served with 2 MiB */
	__u8 name[SPAN_NAME_LEN];	/* the guest's */
};

/* One message to L0 and the answer to it. ETIMEDOUT after one second. */
struct span_port_call {
	__u32 size;
	__u32 flags;		/* in: 0 */
	__u16 type;		/* in: SPAN_MSG_*, out: of the answer */
	__u16 len;		/* in and out: bytes of payload, at most 48 */
	__u32 pad;
	__u8 payload[48];
};

#define SPAN_PORT_IO		0xBF
#define SPAN_PORT_GET_INFO	_IOWR(SPAN_PORT_IO, 0x00, struct span_port_info)
#define SPAN_PORT_CALL		_IOWR(SPAN_PORT_IO, 0x01, struct span_port_call)
#define SPAN_PORT_DETACH	_IO(SPAN_PORT_IO, 0x02)	/* ask to be detached */

/*
 * SPAN_PORT_WATCH on /dev/spanN: make a watch; returns a descriptor (close-on-
 * exec) that is the watch. close() of the last copy ends it and gives back what
 * it held. The calls below are made on it. After the attachment is over they
 * give ENODEV, and poll() says POLLHUP.
 *
 * read() gives whole struct span_watch_event, waits for the first (EAGAIN with
 * O_NONBLOCK). write() takes whole struct span_watch_answer; ENOENT and the like
 * cannot be told: late answers are counted as stale. poll(): POLLIN. When L0
 * says that it lost messages, each watch of the port gets an event with access
 * 0, page ~0 and the new count in lost.
 * The driver keeps up to SPAN_WATCH_QUEUE events per watch for a slow reader;
 * beyond it the oldest notices go first, counted in span_watch_info.lost; events
 * that want an answer are never dropped in favour of notices.
 */
#define SPAN_WATCH_QUEUE	1024

struct span_port_watch {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 deadline_us;	/* 0: the default */
	__u32 on_timeout;	/* SPAN_ALLOW or SPAN_DENY */
};

struct span_watch_range {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 access;		/* SPAN_ACCESS_* */
	__u32 mode;		/* SPAN_MODE_*; 0 for UNSUBSCRIBE and PROTECT */
	__u64 first;
	__u64 pages;
};

struct span_watch_event {
	__u64 event;		/* 0: no answer wanted */
	__u64 time_ns;		/* CLOCK_MONOTONIC when the L1 took it */
	__u64 gpa;
	__u64 rip;
	__u64 cr3;
	__u32 page;
	__u32 flags;		/* SPAN_EVENT_F_* */
	__u32 lost;		/* messages that L0 lost so far, of the whole port */
	__u16 vcpu;
	__u8 access;
	__u8 source;
};

struct span_watch_answer {
	__u64 event;
	__u32 verdict;
	__u32 flags;		/* SPAN_ANSWER_* */
};

struct span_watch_range_out {
	__u64 first;
	__u64 pages;
};

struct span_watch_fetch {
	__u32 size;
	__u32 flags;		/* 0 */
	__u64 ranges;		/* address of struct span_watch_range_out[max] */
	__u32 max;		/* 1 to SPAN_LOG_MAX_RANGES */
	__u32 count;		/* out */
	__u64 first;
	__u64 pages;
	__u64 next;		/* out: go on from here; first + pages at the end */
	__u64 dirty;		/* out */
};

/* Same order and meaning as struct kvm_span_watch_info. */
struct span_watch_info {
	__u32 size;
	__u32 flags;
	__u32 watch;
	__u32 deadline_us;
	__u32 on_timeout;
	__u32 muted;
	__u64 pages_subscribed;
	__u64 pages_protected;
	__u64 pages_logged;
	__u64 events;
	__u64 notices;
	__u64 violations;
	__u64 allowed;
	__u64 denied;
	__u64 timeouts;
	__u64 stale;
	__u64 lost;
	__u64 logged;
	__u64 fetched;
};

/*
 * SPAN_PORT_CHANNEL on /dev/spanN: the L1's end of the byte stream to the guest's
 * controller on L0; returns a descriptor (close-on-exec) for read(), write() and
 * poll(), at most one at a time (EBUSY). EACCES when the attachment has no
 * SPAN_STATUS_SHARE. EOF and EPIPE when the other end was closed or started anew,
 * ENODEV when the attachment is over.
 */
struct span_port_channel {
	__u32 size;
	__u32 flags;		/* 0 */
};

#define SPAN_PORT_CHANNEL	_IOW(SPAN_PORT_IO, 0x04, struct span_port_channel)
#define SPAN_PORT_WATCH		_IOW(SPAN_PORT_IO, 0x03, struct span_port_watch)
#define SPAN_WATCH_SUBSCRIBE	_IOW(SPAN_PORT_IO, 0x10, struct span_watch_range)
#define SPAN_WATCH_UNSUBSCRIBE	_IOW(SPAN_PORT_IO, 0x11, struct span_watch_range)
#define SPAN_WATCH_PROTECT	_IOW(SPAN_PORT_IO, 0x12, struct span_watch_range)
#define SPAN_WATCH_LOG_FETCH	_IOWR(SPAN_PORT_IO, 0x13, struct span_watch_fetch)
#define SPAN_WATCH_GET_INFO	_IOWR(SPAN_PORT_IO, 0x14, struct span_watch_info)

#endif /* _UAPI_LINUX_SPAN_PORT_H */
