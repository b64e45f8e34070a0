// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: the shared pages in BAR 5, the interrupt that speaks of them, and the
 * relay that the L1's kvm.ko makes of them (<linux/span_relay.h>).
 *
 * They are mapped as long as anybody has them, also after the PCI function is gone,
 * with the register that rings: relays ring in any context and take no lock for it.
 */
#include <linux/export.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/span_relay.h>

#include "port.h"

struct span_port_relay {
	struct span_share *share;	/* referenced */
	const struct span_port_relay_ops *ops;
	void *opaque;
};

/* Tell L0 to look. Any context. */
void span_share_ring(struct span_share *share)
{
	writel(1, share->regs + SPAN_REG_SHARE);
}

/* Are the pages those of this attachment, or has L0 taken them away already? */
bool span_share_there(struct span_share *share, u32 generation)
{
	return readl(share->regs + SPAN_REG_GENERATION) == generation &&
	       readl(share->regs + SPAN_REG_STATUS) & SPAN_STATUS_SHARE;
}

static void share_look(struct span_share *share)
{
	struct span_port_relay *relay;

	rcu_read_lock();
	relay = rcu_dereference(share->relay);
	if (relay)
		relay->ops->posted(relay->opaque);
	rcu_read_unlock();
	span_channel_look(share);
}

/* Not in a thread: what was posted are interrupts themselves. */
irqreturn_t span_share_interrupt(int irq, void *data)
{
	share_look(data);
	return IRQ_HANDLED;
}

/* An interrupt may have been lost. */
void span_share_reset(struct span_port *port)
{
	unsigned long flags;

	if (!port->share)
		return;
	local_irq_save(flags);
	share_look(port->share);
	local_irq_restore(flags);
	span_share_ring(port->share);
}

/*
 * The attachment changed: the relay and the stream of the old one are over. Caller
 * holds reg_lock.
 */
void span_share_follow(struct span_port *port)
{
	u32 generation = span_may_share(&port->now) ? port->now.generation : 0;
	struct span_share *share = port->share;
	struct span_port_relay *relay;

	lockdep_assert_held(&port->reg_lock);
	if (!share || generation == share->generation)
		return;
	mutex_lock(&share->relay_lock);
	relay = rcu_replace_pointer(share->relay, NULL, lockdep_is_held(&share->relay_lock));
	if (relay)
		relay->ops->gone(relay->opaque);
	span_channel_follow(share, generation);
	mutex_unlock(&share->relay_lock);
}

/* The port's shared pages if the file may use them, with a reference. */
struct span_share *span_share_get(struct span_file *sf)
{
	struct span_port *port = sf->port;
	struct span_share *share;

	down_read(&port->sem);
	if (!span_file_live(sf)) {
		share = ERR_PTR(-ENODEV);
	} else if (!port->share || !span_may_share(&port->now)) {
		share = ERR_PTR(-EACCES);
	} else {
		share = port->share;
		kref_get(&share->ref);
	}
	up_read(&port->sem);
	return share;
}

static void share_free(struct kref *ref)
{
	struct span_share *share = container_of(ref, struct span_share, ref);

	memunmap(share->pages);
	iounmap(share->regs);
	kfree(share);
}

void span_share_put(struct span_share *share)
{
	kref_put(&share->ref, share_free);
}

static int relay_add(struct span_port_relay *relay, u32 generation)
{
	struct span_share *share = relay->share;
	int ret = 0;

	mutex_lock(&share->relay_lock);
	if (share->generation != generation)
		ret = -ENODEV;
	else if (rcu_access_pointer(share->relay))
		ret = -EBUSY;
	else
		rcu_assign_pointer(share->relay, relay);
	mutex_unlock(&share->relay_lock);
	return ret;
}

struct span_port_relay *span_port_relay_open(struct file *file,
					     const struct span_port_relay_ops *ops,
					     void *opaque)
{
	struct span_port_relay *relay;
	struct span_share *share;
	struct span_file *sf;
	int ret;

	if (file->f_op != &span_port_fops)
		return ERR_PTR(-EINVAL);
	sf = file->private_data;
	share = span_share_get(sf);
	if (IS_ERR(share))
		return ERR_CAST(share);
	relay = kzalloc(sizeof(*relay), GFP_KERNEL_ACCOUNT);
	if (!relay) {
		span_share_put(share);
		return ERR_PTR(-ENOMEM);
	}
	relay->share = share;
	relay->ops = ops;
	relay->opaque = opaque;
	ret = relay_add(relay, sf->generation);
	if (ret) {
		kfree(relay);
		span_share_put(share);
		return ERR_PTR(ret);
	}
	return relay;
}
EXPORT_SYMBOL_GPL(span_port_relay_open);

void span_port_relay_close(struct span_port_relay *relay)
{
	struct span_share *share = relay->share;

	mutex_lock(&share->relay_lock);
	if (rcu_access_pointer(share->relay) == relay)
		RCU_INIT_POINTER(share->relay, NULL);
	mutex_unlock(&share->relay_lock);
	/* Interrupt handlers that found it are through. */
	synchronize_rcu();
	kfree(relay);
	span_share_put(share);
}
EXPORT_SYMBOL_GPL(span_port_relay_close);

struct span_posts *span_port_relay_posts(struct span_port_relay *relay, bool to_l0)
{
	return relay->share->pages + (to_l0 ? SPAN_POSTS_TO_L0 : SPAN_POSTS_TO_L1);
}
EXPORT_SYMBOL_GPL(span_port_relay_posts);

void span_port_relay_ring(struct span_port_relay *relay)
{
	span_share_ring(relay->share);
}
EXPORT_SYMBOL_GPL(span_port_relay_ring);

/* A device without shared pages is as good as one whose attachments have none. */
int span_share_init(struct span_port *port)
{
	struct pci_dev *pdev = port->pdev;
	struct span_share *share;
	int ret = -ENOMEM;

	BUILD_BUG_ON(sizeof(struct span_posts) > SPAN_POSTS_TO_L1 - SPAN_POSTS_TO_L0);
	BUILD_BUG_ON(SPAN_BYTES_TO_L1 + SPAN_STREAM_BYTES > SPAN_SHARE_BYTES);

	if (!(port->features & SPAN_PORT_F_SHARE))
		return 0;
	if (pci_resource_len(pdev, SPAN_PORT_BAR_WATCH) < SPAN_SHARE_OFFSET + SPAN_SHARE_BYTES) {
		dev_err(&pdev->dev, "the BAR of shared pages is too small\n");
		return -ENODEV;
	}
	share = kzalloc(sizeof(*share), GFP_KERNEL);
	if (!share)
		return -ENOMEM;
	kref_init(&share->ref);
	mutex_init(&share->relay_lock);
	spin_lock_init(&share->lock);
	share->number = get_random_u32();
	share->regs = ioremap(pci_resource_start(pdev, SPAN_PORT_BAR_REGS), PAGE_SIZE);
	if (!share->regs)
		goto err_share;
	/* Memory on L0's side when it is there, like the rings. */
	share->pages = memremap(pci_resource_start(pdev, SPAN_PORT_BAR_WATCH) + SPAN_SHARE_OFFSET,
				SPAN_SHARE_BYTES, MEMREMAP_WB);
	if (!share->pages)
		goto err_regs;
	span_stream_init(&share->end, share->pages, false);
	port->share = share;
	return 0;

err_regs:
	iounmap(share->regs);
err_share:
	kfree(share);
	return ret;
}

/* After span_port_set_gone() and the last interrupt. */
void span_share_exit(struct span_port *port)
{
	if (port->share)
		span_share_put(port->share);
	port->share = NULL;
}
