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
#define SPAN_REG_NAME		0x40	/* R: guest's name, SPAN_NAME_LEN bytes */

#define SPAN_PORT_MAGIC		0x4e415053	/* "SPAN" */
#define SPAN_PORT_VERSION	1
#define SPAN_NAME_LEN		32

#define SPAN_PORT_F_WINDOW	(1u << 0)
#define SPAN_PORT_F_RING	(1u << 1)

#define SPAN_STATUS_ATTACHED	(1u << 0)	/* the window holds a guest */
#define SPAN_STATUS_READONLY	(1u << 1)	/* writes are discarded by L0 */
#define SPAN_STATUS_DETACHING	(1u << 2)	/* unmap, then SPAN_CMD_DETACH_ACK */

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
#define SPAN_VECTORS		2

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

#endif /* _UAPI_LINUX_SPAN_PORT_H */
