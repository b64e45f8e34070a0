// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: what is attached now, and what follows when that changes.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "port.h"

static u32 reg_read(struct span_port *port, u32 reg)
{
	return readl(port->regs + reg);
}

static void reg_write(struct span_port *port, u32 reg, u32 value)
{
	writel(value, port->regs + reg);
}

/* A device that was pulled answers all ones; do not take that for a state. */
static bool registers_alive(struct span_port *port)
{
	if (port->registers_lost)
		return false;
	if (reg_read(port, SPAN_REG_MAGIC) == SPAN_PORT_MAGIC)
		return true;
	port->registers_lost = true;
	dev_err(&port->dev, "the device does not answer any more\n");
	return false;
}

static void read_name(struct span_port *port, u8 *name)
{
	int i;

	for (i = 0; i < SPAN_NAME_LEN; i += 4) {
		__le32 word = cpu_to_le32(reg_read(port, SPAN_REG_NAME + i));

		memcpy(name + i, &word, 4);
	}
	name[SPAN_NAME_LEN - 1] = '\0';
	memset(name + strlen(name), 0, SPAN_NAME_LEN - strlen(name));
}

/*
 * One look at the device. The generation before and after says whether the
 * parts belong together; if L0 keeps changing them, the next interrupt brings
 * us here again, so "detached" is a safe answer meanwhile.
 */
static void read_attachment(struct span_port *port, struct span_attachment *a)
{
	u32 generation;
	int tries;

	for (tries = 0; tries < 4; tries++) {
		memset(a, 0, sizeof(*a));
		generation = reg_read(port, SPAN_REG_GENERATION);
		a->status = reg_read(port, SPAN_REG_STATUS);
		a->bytes = reg_read(port, SPAN_REG_SIZE_LO);
		a->bytes |= (u64)reg_read(port, SPAN_REG_SIZE_HI) << 32;
		read_name(port, a->name);
		if (!(a->status & SPAN_STATUS_ATTACHED))
			return;
		if (generation == reg_read(port, SPAN_REG_GENERATION) &&
		    a->status == reg_read(port, SPAN_REG_STATUS)) {
			a->generation = generation;
			return;
		}
	}
}

static void make_detached(struct span_attachment *a)
{
	a->status &= ~(SPAN_STATUS_ATTACHED | SPAN_STATUS_READONLY | SPAN_STATUS_WATCH |
		       SPAN_STATUS_SHARE);
	a->generation = 0;
	a->bytes = 0;
	memset(a->name, 0, sizeof(a->name));
}

/* Is the attachment one that this driver can use? */
static bool usable(struct span_port *port, const struct span_attachment *a)
{
	if (!a->generation || (a->status & SPAN_STATUS_DETACHING))
		return false;
	if (a->bytes && a->bytes <= port->window_bytes &&
	    IS_ALIGNED(a->bytes, PAGE_SIZE))
		return true;
	dev_err_ratelimited(&port->dev,
			    "attachment of %llu bytes does not fit the window of %llu\n",
			    a->bytes, port->window_bytes);
	return false;
}

/*
 * Make @next the state. What was mapped of another attachment, or with more
 * rights, is unmapped on return. Caller holds reg_lock.
 */
static void switch_to(struct span_port *port, const struct span_attachment *next)
{
	bool same, unmap;

	lockdep_assert_held(&port->reg_lock);
	/* Only holders of reg_lock write it, so reading needs no more. */
	same = !memcmp(&port->now, next, sizeof(*next));
	if (same)
		return;
	unmap = span_attached(&port->now);

	down_write(&port->sem);
	port->now = *next;
	port->changes++;
	if (next->generation)
		port->last_generation = next->generation;
	up_write(&port->sem);

	/*
	 * No fault that began before is still running and none that begins
	 * now accepts a file of the old generation: after this, no process of
	 * the L1 has a translation to the window, nor its KVM (mmu notifiers).
	 */
	if (unmap)
		unmap_mapping_range(port->inode->i_mapping, 0, 0, 1);
	span_ring_abort(port);
	span_events_follow(port);
	span_share_follow(port);
	wake_up_interruptible(&port->changed);
}

static void log_change(struct span_port *port, bool was)
{
	const struct span_attachment *a = &port->now;

	if (span_attached(a))
		dev_info(&port->dev, "guest '%s' attached: %llu MiB, %s, generation %u\n",
			 a->name, a->bytes >> 20,
			 span_readonly(a) ? "read-only" : "read-write",
			 a->generation);
	else if (was)
		dev_info(&port->dev, "detached\n");
}

/*
 * span_port_refresh - follow the device: interrupt thread, open(), GET_INFO
 *
 * Sleeps. Answers a request to detach once nothing is mapped any more.
 */
void span_port_refresh(struct span_port *port)
{
	struct span_attachment next = {};
	u32 ack = 0, was;

	mutex_lock(&port->reg_lock);
	if (port->gone)
		goto unlock;
	if (registers_alive(port)) {
		/* Clear first: a change after this raises the event again. */
		reg_write(port, SPAN_REG_EVENT, SPAN_EVENT_STATE);
		read_attachment(port, &next);
		if (next.status & SPAN_STATUS_DETACHING)
			ack = reg_read(port, SPAN_REG_GENERATION);
	}
	if (!usable(port, &next))
		make_detached(&next);
	was = port->now.generation;
	switch_to(port, &next);
	if (was != port->now.generation)
		log_change(port, was);
	if (ack) {
		reg_write(port, SPAN_REG_ARGUMENT, ack);
		reg_write(port, SPAN_REG_COMMAND, SPAN_CMD_DETACH_ACK);
	}
unlock:
	mutex_unlock(&port->reg_lock);
}

/* The PCI function goes away: end every attachment and wake everybody. */
void span_port_set_gone(struct span_port *port)
{
	struct span_attachment none = {};

	mutex_lock(&port->reg_lock);
	down_write(&port->sem);
	port->gone = true;
	up_write(&port->sem);
	switch_to(port, &none);
	/* a call that speaks of no attachment as well */
	span_ring_abort(port);
	mutex_unlock(&port->reg_lock);
	wake_up_interruptible(&port->changed);
}

/* Returns 0 or a negative errno; what the device says is not trusted to be one. */
int span_port_command(struct span_port *port, u32 command, u32 argument)
{
	u32 result;
	int ret = -ENODEV;

	mutex_lock(&port->reg_lock);
	if (port->gone || !registers_alive(port))
		goto unlock;
	reg_write(port, SPAN_REG_ARGUMENT, argument);
	reg_write(port, SPAN_REG_COMMAND, command);
	result = reg_read(port, SPAN_REG_RESULT);
	ret = result <= MAX_ERRNO ? -(int)result : -EPROTO;
unlock:
	mutex_unlock(&port->reg_lock);
	return ret;
}

/* Before there is an interrupt or a file: is this a port that we know? */
int span_port_state_init(struct span_port *port)
{
	u32 magic = reg_read(port, SPAN_REG_MAGIC);

	mutex_init(&port->reg_lock);
	init_rwsem(&port->sem);
	init_waitqueue_head(&port->changed);
	if (magic != SPAN_PORT_MAGIC) {
		dev_err(&port->pdev->dev, "no span-port: magic is %#x\n", magic);
		return -ENODEV;
	}
	port->version = reg_read(port, SPAN_REG_VERSION);
	if (port->version != SPAN_PORT_VERSION) {
		dev_err(&port->pdev->dev, "span-port version %u, this driver knows %u\n",
			port->version, SPAN_PORT_VERSION);
		return -ENODEV;
	}
	port->features = reg_read(port, SPAN_REG_FEATURES);
	if (!(port->features & SPAN_PORT_F_WINDOW)) {
		dev_err(&port->pdev->dev, "the span-port has no memory window\n");
		return -ENODEV;
	}
	return 0;
}

static struct span_port *to_port(struct device *dev)
{
	return container_of(dev, struct span_port, dev);
}

/* A copy of the state, consistent in itself. */
static struct span_attachment snapshot(struct span_port *port)
{
	struct span_attachment a;

	down_read(&port->sem);
	a = port->now;
	up_read(&port->sem);
	return a;
}

static ssize_t size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct span_attachment a = snapshot(to_port(dev));

	return sysfs_emit(buf, "%llu\n", a.bytes);
}
static DEVICE_ATTR_RO(size);

static ssize_t access_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct span_attachment a = snapshot(to_port(dev));

	if (!span_attached(&a))
		return sysfs_emit(buf, "none\n");
	return sysfs_emit(buf, "%s\n", span_readonly(&a) ? "ro" : "rw");
}
static DEVICE_ATTR_RO(access);

/* The live attachment's generation, or 0. */
static ssize_t generation_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct span_attachment a = snapshot(to_port(dev));

	return sysfs_emit(buf, "%u\n", a.generation);
}
static DEVICE_ATTR_RO(generation);

static ssize_t guest_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct span_attachment a = snapshot(to_port(dev));

	return sysfs_emit(buf, "%s\n", a.name);
}
static DEVICE_ATTR_RO(guest);

static ssize_t window_size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", to_port(dev)->window_bytes);
}
static DEVICE_ATTR_RO(window_size);

static ssize_t ring_errors_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct span_port *port = to_port(dev);
	u64 errors;

	mutex_lock(&port->ring_lock);
	errors = port->ring.errors;
	mutex_unlock(&port->ring_lock);
	return sysfs_emit(buf, "%llu\n", errors);
}
static DEVICE_ATTR_RO(ring_errors);

static ssize_t watch_errors_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", atomic64_read(&to_port(dev)->ev.errors));
}
static DEVICE_ATTR_RO(watch_errors);

static struct attribute *span_port_attrs[] = {
	&dev_attr_size.attr,
	&dev_attr_access.attr,
	&dev_attr_generation.attr,
	&dev_attr_guest.attr,
	&dev_attr_window_size.attr,
	&dev_attr_ring_errors.attr,
	&dev_attr_watch_errors.attr,
	NULL
};

static const struct attribute_group span_port_group = {
	.attrs = span_port_attrs,
};

const struct attribute_group *span_port_groups[] = {
	&span_port_group,
	NULL
};
