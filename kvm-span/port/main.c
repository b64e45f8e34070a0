// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: PCI driver of the span-port, an L1's way to a Span guest.
 *
 * The window BAR gets struct pages and a write-back direct map once, at probe,
 * for its whole size, whether a guest is attached or not. Attaching then costs
 * the L1 an interrupt and nothing that grows with the guest.
 */
#include <linux/delay.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>
#include <asm/memtype.h>

#include "port.h"

/* memremap_pages() works in subsections of this size */
#define WINDOW_ALIGN	(2UL << 20)

static dev_t span_port_devt;
static DEFINE_IDA(span_port_ids);
static struct vfsmount *span_port_mount;

static int span_port_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, SPAN_PORT_MAGIC) ? 0 : -ENOMEM;
}

/*
 * Only for our inodes. No owner: a mount holds its owner's module, and this one
 * lives from init to exit. Open files hold the module by themselves.
 */
static struct file_system_type span_port_fs = {
	.name = "span_port",
	.init_fs_context = span_port_init_fs_context,
	.kill_sb = kill_anon_super,
};

static char *span_port_devnode(const struct device *dev, umode_t *mode)
{
	if (mode)
		*mode = 0600;
	return NULL;
}

static struct class span_port_class = {
	.name = "span_port",
	.dev_groups = span_port_groups,
	.devnode = span_port_devnode,
};

static irqreturn_t state_interrupt(int irq, void *data)
{
	span_port_refresh(data);
	return IRQ_HANDLED;
}

static irqreturn_t ring_interrupt(int irq, void *data)
{
	struct span_port *port = data;

	mutex_lock(&port->reg_lock);
	writel(SPAN_EVENT_RING, port->regs + SPAN_REG_EVENT);
	mutex_unlock(&port->reg_lock);
	span_ring_drain(port);
	return IRQ_HANDLED;
}

static irqreturn_t watch_interrupt(int irq, void *data)
{
	span_events_drain(data);
	return IRQ_HANDLED;
}

/* The vectors that a device of these features has. */
static int vectors(struct span_port *port)
{
	if (port->share)
		return SPAN_VECTOR_SHARE + 1;
	return port->ev.base ? SPAN_VECTOR_WATCH + 1 : SPAN_VECTOR_WATCH;
}

static int request_thread(struct span_port *port, int vector, irq_handler_t handler)
{
	return request_threaded_irq(pci_irq_vector(port->pdev, vector), NULL, handler,
				    IRQF_ONESHOT, dev_name(&port->dev), port);
}

static int request_interrupts(struct span_port *port)
{
	struct pci_dev *pdev = port->pdev;
	int ret;

	ret = pci_alloc_irq_vectors(pdev, vectors(port), vectors(port), PCI_IRQ_MSIX);
	if (ret < 0) {
		dev_err(&pdev->dev, "no MSI-X interrupts: %d\n", ret);
		return ret;
	}
	ret = request_thread(port, SPAN_VECTOR_STATE, state_interrupt);
	if (ret)
		goto err_vectors;
	ret = request_thread(port, SPAN_VECTOR_RING, ring_interrupt);
	if (ret)
		goto err_state;
	if (port->ev.base)
		ret = request_thread(port, SPAN_VECTOR_WATCH, watch_interrupt);
	if (ret)
		goto err_ring;
	if (port->share)
		ret = request_irq(pci_irq_vector(pdev, SPAN_VECTOR_SHARE), span_share_interrupt,
				  0, dev_name(&port->dev), port->share);
	if (ret)
		goto err_watch;
	return 0;

err_watch:
	if (port->ev.base)
		free_irq(pci_irq_vector(pdev, SPAN_VECTOR_WATCH), port);
err_ring:
	free_irq(pci_irq_vector(pdev, SPAN_VECTOR_RING), port);
err_state:
	free_irq(pci_irq_vector(pdev, SPAN_VECTOR_STATE), port);
err_vectors:
	pci_free_irq_vectors(pdev);
	return ret;
}

static void free_interrupts(struct span_port *port)
{
	if (port->share)
		free_irq(pci_irq_vector(port->pdev, SPAN_VECTOR_SHARE), port->share);
	if (port->ev.base)
		free_irq(pci_irq_vector(port->pdev, SPAN_VECTOR_WATCH), port);
	free_irq(pci_irq_vector(port->pdev, SPAN_VECTOR_RING), port);
	free_irq(pci_irq_vector(port->pdev, SPAN_VECTOR_STATE), port);
	pci_free_irq_vectors(port->pdev);
}

/*
 * A window that firmware left uncached would work and be some hundred times
 * slower, and a KVM in this L1 would take it for MMIO. Say so and stop.
 */
static int check_write_back(struct span_port *port)
{
	u64 offset;

	for (offset = 0; offset < port->window_bytes; offset += WINDOW_ALIGN) {
		if (!pat_pfn_immune_to_uc_mtrr(PHYS_PFN(port->window_phys + offset)))
			continue;
		dev_err(&port->pdev->dev,
			"the window at %pa is not write-back by the MTRRs that this VM's firmware set (see /proc/mtrr)%s\n",
			&port->window_phys, port->window_phys >> 32 ? "" :
			"; firmware puts a BAR below 4 GiB if it fits there: give the port a window-size of 1 GiB or more");
		return -EIO;
	}
	return 0;
}

static int map_window(struct span_port *port)
{
	struct pci_dev *pdev = port->pdev;
	struct dev_pagemap *pgmap = &port->pgmap;
	int ret;

	port->window_phys = pci_resource_start(pdev, SPAN_PORT_BAR_WINDOW);
	port->window_bytes = pci_resource_len(pdev, SPAN_PORT_BAR_WINDOW);
	if (!port->window_phys || port->window_bytes < WINDOW_ALIGN ||
	    !IS_ALIGNED(port->window_phys, WINDOW_ALIGN)) {
		dev_err(&pdev->dev, "the window BAR %pR is unusable\n",
			&pdev->resource[SPAN_PORT_BAR_WINDOW]);
		return -ENODEV;
	}
	pgmap->type = MEMORY_DEVICE_GENERIC;
	pgmap->range.start = port->window_phys;
	pgmap->range.end = port->window_phys + port->window_bytes - 1;
	pgmap->nr_range = 1;
	port->window = memremap_pages(pgmap, dev_to_node(&pdev->dev));
	if (IS_ERR(port->window)) {
		ret = PTR_ERR(port->window);
		dev_err(&pdev->dev,
			"cannot make pages for %llu MiB at %pa: %d (too little memory, or beyond this kernel's direct map: boot with nokaslr or give the VM fewer physical address bits)\n",
			port->window_bytes >> 20, &port->window_phys, ret);
		return ret;
	}
	ret = check_write_back(port);
	if (ret)
		memunmap_pages(pgmap);
	return ret;
}

static bool window_pinned(struct span_port *port)
{
	unsigned long pfn = PHYS_PFN(port->window_phys);
	unsigned long end = pfn + (port->window_bytes >> PAGE_SHIFT);

	for (; pfn < end; pfn++)
		if (page_ref_count(pfn_to_page(pfn)) > 1)
			return true;
	return false;
}

/*
 * The struct pages go away with the window. Whoever pinned one (direct I/O, a
 * passed-through device) would be left with a stale pointer, so wait.
 */
static void unmap_window(struct span_port *port)
{
	unsigned int waited = 0;

	while (window_pinned(port)) {
		if (waited++ % 500 == 0)
			dev_warn(&port->pdev->dev, "pages of the window are pinned, waiting for their users\n");
		msleep(20);
	}
	memunmap_pages(&port->pgmap);
}

static int get_inode(struct span_port *port)
{
	struct inode *inode = alloc_anon_inode(span_port_mount->mnt_sb);

	if (IS_ERR(inode))
		return PTR_ERR(inode);
	/*
	 * Huge faults then do not depend on the policy for transparent huge
	 * pages, which is "never" in a VM of less than 512 MiB. (Without
	 * FS_DAX the flag is 0, and they do.)
	 */
	inode->i_flags |= S_DAX;
	port->inode = inode;
	return 0;
}

/* Last reference: the device is gone and so is every open file. */
static void span_port_free(struct device *dev)
{
	struct span_port *port = container_of(dev, struct span_port, dev);

	iput(port->inode);
	if (port->id >= 0)
		ida_free(&span_port_ids, port->id);
	kfree(port);
}

static struct span_port *alloc_port(struct pci_dev *pdev)
{
	struct span_port *port;
	int ret;

	port = kzalloc(sizeof(*port), GFP_KERNEL);
	if (!port)
		return ERR_PTR(-ENOMEM);
	port->pdev = pdev;
	port->id = -1;
	device_initialize(&port->dev);
	port->dev.class = &span_port_class;
	port->dev.parent = &pdev->dev;
	port->dev.release = span_port_free;

	port->id = ida_alloc_max(&span_port_ids, SPAN_PORT_MAX_PORTS - 1, GFP_KERNEL);
	ret = port->id;
	if (ret < 0)
		goto err_put;
	port->dev.devt = MKDEV(MAJOR(span_port_devt), port->id);
	ret = dev_set_name(&port->dev, "span%d", port->id);
	if (ret)
		goto err_put;
	ret = get_inode(port);
	if (ret)
		goto err_put;
	cdev_init(&port->cdev, &span_port_fops);
	port->cdev.owner = THIS_MODULE;
	return port;

err_put:
	put_device(&port->dev);
	return ERR_PTR(ret);
}

static int enable_device(struct pci_dev *pdev)
{
	int ret;

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return ret;
	ret = pci_request_regions(pdev, "span_port");
	if (ret) {
		pci_disable_device(pdev);
		return ret;
	}
	/* MSI-X messages are bus master writes */
	pci_set_master(pdev);
	return 0;
}

static void disable_device(struct pci_dev *pdev)
{
	pci_clear_master(pdev);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}

static int span_port_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct span_port *port;
	int ret;

	port = alloc_port(pdev);
	if (IS_ERR(port))
		return PTR_ERR(port);
	ret = enable_device(pdev);
	if (ret)
		goto err_put;
	ret = -ENOMEM;
	port->regs = pci_iomap(pdev, SPAN_PORT_BAR_REGS, 0);
	if (!port->regs)
		goto err_disable;
	ret = span_port_state_init(port);
	if (ret)
		goto err_unmap_regs;
	ret = span_ring_init(port);
	if (ret)
		goto err_unmap_regs;
	ret = span_events_init(port);
	if (ret)
		goto err_ring;
	ret = span_share_init(port);
	if (ret)
		goto err_events;
	ret = map_window(port);
	if (ret)
		goto err_share;
	ret = request_interrupts(port);
	if (ret)
		goto err_window;
	pci_set_drvdata(pdev, port);
	ret = cdev_device_add(&port->cdev, &port->dev);
	if (ret)
		goto err_interrupts;

	dev_info(&port->dev, "window of %llu MiB at %pa, write-back\n",
		 port->window_bytes >> 20, &port->window_phys);
	/* A guest may have been attached before there was a driver. */
	span_port_refresh(port);
	return 0;

err_interrupts:
	span_port_set_gone(port);
	free_interrupts(port);
err_window:
	memunmap_pages(&port->pgmap);
err_share:
	span_share_exit(port);
err_events:
	span_events_exit(port);
err_ring:
	span_ring_exit(port);
err_unmap_regs:
	pci_iounmap(pdev, port->regs);
err_disable:
	disable_device(pdev);
err_put:
	put_device(&port->dev);
	return ret;
}

static void span_port_remove(struct pci_dev *pdev)
{
	struct span_port *port = pci_get_drvdata(pdev);

	cdev_device_del(&port->cdev, &port->dev);
	/* while L0 can still be asked */
	span_watch_end_all(port);
	span_port_set_gone(port);
	free_interrupts(port);
	unmap_window(port);
	span_share_exit(port);
	span_events_exit(port);
	span_ring_exit(port);
	pci_iounmap(pdev, port->regs);
	disable_device(pdev);
	put_device(&port->dev);
}

/*
 * Somebody resets the function (/sys/bus/pci/devices/.../reset). L0 keeps the
 * attachment and drops the rings' content and all watches. watch_lock, over
 * both, keeps requests out.
 */
static void span_port_reset_prepare(struct pci_dev *pdev)
{
	struct span_port *port = pci_get_drvdata(pdev);

	mutex_lock(&port->watch_lock);
	span_events_reset(port);
}

static void span_port_reset_done(struct pci_dev *pdev)
{
	struct span_port *port = pci_get_drvdata(pdev);

	/* what was read meanwhile was no state */
	mutex_lock(&port->reg_lock);
	port->registers_lost = false;
	mutex_unlock(&port->reg_lock);
	span_ring_restart(port);
	mutex_unlock(&port->watch_lock);
	span_port_refresh(port);
	span_share_reset(port);
}

static const struct pci_error_handlers span_port_error_handlers = {
	.reset_prepare = span_port_reset_prepare,
	.reset_done = span_port_reset_done,
};

static const struct pci_device_id span_port_pci_ids[] = {
	{ PCI_DEVICE(SPAN_PORT_PCI_VENDOR, SPAN_PORT_PCI_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, span_port_pci_ids);

static struct pci_driver span_port_driver = {
	.name = "span_port",
	.id_table = span_port_pci_ids,
	.probe = span_port_probe,
	.remove = span_port_remove,
	.err_handler = &span_port_error_handlers,
};

static int __init span_port_init(void)
{
	int ret;

	span_port_mount = kern_mount(&span_port_fs);
	if (IS_ERR(span_port_mount))
		return PTR_ERR(span_port_mount);
	ret = alloc_chrdev_region(&span_port_devt, 0, SPAN_PORT_MAX_PORTS, "span_port");
	if (ret)
		goto err_mount;
	ret = class_register(&span_port_class);
	if (ret)
		goto err_region;
	ret = pci_register_driver(&span_port_driver);
	if (ret)
		goto err_class;
	return 0;

err_class:
	class_unregister(&span_port_class);
err_region:
	unregister_chrdev_region(span_port_devt, SPAN_PORT_MAX_PORTS);
err_mount:
	kern_unmount(span_port_mount);
	return ret;
}
module_init(span_port_init);

static void __exit span_port_exit(void)
{
	pci_unregister_driver(&span_port_driver);
	class_unregister(&span_port_class);
	unregister_chrdev_region(span_port_devt, SPAN_PORT_MAX_PORTS);
	kern_unmount(span_port_mount);
	ida_destroy(&span_port_ids);
}
module_exit(span_port_exit);

MODULE_DESCRIPTION("span-port: an L1 hypervisor's window into a Span guest");
MODULE_LICENSE("GPL");
