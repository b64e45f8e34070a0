/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span: what span_port.ko in an L1 offers the L1's kvm.ko, which finds it
 * with symbol_get(): the posts in the shared pages of a port (struct span_posts
 * in <linux/span_port.h>), and word of them both ways.
 */
#ifndef _LINUX_SPAN_RELAY_H
#define _LINUX_SPAN_RELAY_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <uapi/linux/span_port.h>

struct file;
struct span_port_relay;

struct span_port_relay_ops {
	/*
	 * Something is in the posts to L1, perhaps. Hard interrupt context, on
	 * any CPU, several at a time; not after span_port_relay_close().
	 */
	void (*posted)(void *opaque);
	/*
	 * The attachment is over or the port is going. Called once, in process
	 * context, with locks of the driver held: must not call
	 * span_port_relay_close(), nor take a lock under which that is called.
	 * The posts may be read and written after this and to the end, but what
	 * is read is ones or another's, and what is written may reach another
	 * guest: the relay has stopped when this returns.
	 */
	void (*gone)(void *opaque);
};

/*
 * span_port_relay_open - join the posts of the attachment of an open /dev/spanN
 *
 * Calls may come before this returns. What was posted before is told of by none:
 * look once. The relay keeps the port and its shared pages mapped, not the file.
 * Returns EINVAL for a file that is no port, ENODEV when its attachment is over
 * (or it never had one), EACCES when that has no shared pages, EBUSY when there
 * is a relay already, ENOMEM.
 */
struct span_port_relay *span_port_relay_open(struct file *file,
					     const struct span_port_relay_ops *ops,
					     void *opaque);

/* After this neither function is running or will be called. Process context. */
void span_port_relay_close(struct span_port_relay *relay);

/* The posts to L0 or to this L1: constant, valid until the relay is closed. */
struct span_posts *span_port_relay_posts(struct span_port_relay *relay, bool to_l0);

/* Let L0 look into the posts. Any context; an exit to L0, which looks at once. */
void span_port_relay_ring(struct span_port_relay *relay);

/*
 * Are the pages there? Where L0 has taken them away, before it says so by gone(),
 * all reads give ones. Ask after taking words of a post and before believing
 * them; nobody ever writes the padding.
 */
static inline bool span_posts_there(const struct span_posts *posts)
{
	return !READ_ONCE(posts->pad[0]);
}

#endif
