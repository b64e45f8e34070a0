// SPDX-License-Identifier: GPL-2.0
/* The host's interrupt: something that is armed was written since the last fetch. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>

#include <asm/hw_irq.h>
#include <asm/irqdomain.h>
#include <asm/msr.h>

#include <linux/kvm_ooh.h>

#include "ooh.h"

/*
 * A vector of the CPUs, with no device or interrupt controller before it: the
 * host puts it where an MSR says. irq and told belong to whoever switches the
 * host on and off or fetches, which host_lock excludes from one another.
 */
static int irq;
static u64 told;		/* what the MSR says; 0: nothing */
static bool news;		/* since the last fetch */
static enum cpuhp_state cpu_state;

static irqreturn_t handler(int nr, void *data)
{
	WRITE_ONCE(news, true);
	ooh_spaces_wake();
	return IRQ_HANDLED;
}

bool ooh_irq_news(void)
{
	return READ_ONCE(news);
}

/* A fetch begins. What is written from now on gives another interrupt. */
void ooh_irq_fetch(void)
{
	WRITE_ONCE(news, false);
}

/* Say where the interrupt is to go: the kernel moves it when a CPU goes away. */
int ooh_irq_tell(void)
{
	const struct irq_cfg *cfg = irqd_cfg(irq_get_irq_data(irq));
	u64 want = cfg->vector | 1ULL << KVM_OOH_INT_FRAMES_SHIFT |
		   (u64)cfg->dest_apicid << KVM_OOH_INT_APIC_SHIFT;

	if (want == told)
		return 0;
	if (wrmsrl_safe(MSR_KVM_OOH_INT, want))
		return -EIO;
	told = want;
	return 0;
}

/* Its interrupt may have been under way: everybody looks, and fetches tell the host. */
static int cpu_gone(unsigned int cpu)
{
	WRITE_ONCE(news, true);
	ooh_spaces_wake();
	return 0;
}

/* The host has lost its MSRs. */
void ooh_irq_forgotten(void)
{
	told = 0;
}

int ooh_irq_on(void)
{
	struct irq_alloc_info info = {};
	int err;

	irq = irq_domain_alloc_irqs(x86_vector_domain, 1, NUMA_NO_NODE, &info);
	if (irq < 0)
		return irq;
	irq_set_handler(irq, handle_edge_irq);
	err = request_irq(irq, handler, IRQF_NOBALANCING, "ooh", &news);
	if (err)
		goto err_irq;
	err = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "ooh:irq", NULL, cpu_gone);
	if (err < 0)
		goto err_request;
	cpu_state = err;
	told = 0;
	WRITE_ONCE(news, false);
	err = ooh_irq_tell();
	if (err)
		goto err_cpu;
	return 0;

err_cpu:
	cpuhp_remove_state_nocalls(cpu_state);
err_request:
	free_irq(irq, &news);
err_irq:
	irq_dispose_mapping(irq);
	return err;
}

void ooh_irq_off(void)
{
	wrmsrl_safe(MSR_KVM_OOH_INT, 0);
	cpuhp_remove_state_nocalls(cpu_state);
	free_irq(irq, &news);
	irq_dispose_mapping(irq);
}
