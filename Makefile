# SPDX-License-Identifier: GPL-2.0
#
# KVM Span: build, test and show. "make help" lists the targets.
#
# Each part has a script in scripts/ that installs what it needs, fetches its
# sources and builds only when its inputs changed, so every target here is
# phony and cheap to ask for again.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

config = $(shell scripts/config get $(1))
kernels := trimmed $(if $(filter y,$(call config,KERNEL_DEBUG)),debug)
flavours := trimmed \
	$(if $(filter y,$(call config,KERNEL_CLOUD)),cloud) \
	$(if $(filter y,$(call config,KERNEL_GENERIC)),generic) \
	$(if $(filter y,$(call config,KERNEL_DEBUG)),debug)

.PHONY: all help bochs qemu kernel kvm port ooh-module criu tools selftests images \
	unit test test-debug bench demo demo-ooh shell config menuconfig \
	checkpatch dkms clean distclean fast

all: images		## build everything that tests and demo need

help:			## this list
	@awk -F':.*## *' '/^[a-z-]+:.*##/ {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: FILTER=regex TAG=fast|slow|debug KERNEL=trimmed|debug|stock LEVEL=L0|guest|L1a|L1b"

bochs:			## the emulated machine: Bochs 3.0 with our fixes
	@scripts/build-bochs

qemu:			## QEMU 10.0 with qemu-patches, one static binary
	@scripts/build-qemu

kernel: $(addprefix kernel-,$(kernels))	## the trimmed test kernel (and its debug build)
kernel-%:
	@scripts/build-kernel $*

kvm: $(addprefix kvm-,$(flavours))	## kvm.ko and kvm-intel.ko for every chosen kernel
kvm-trimmed kvm-debug: kvm-%: kernel-%
kvm-%:
	@scripts/build-kvm $*

port: $(addprefix port-,$(flavours))	## span_port.ko, the driver for an L1
port-trimmed port-debug: port-%: kernel-%
port-%:
	@scripts/build-port $*

ooh-module: ooh-module-cloud	## ooh.ko, for VMs that track their processes
ooh-module-%:
	@scripts/build-ooh-module $*
ooh-module-guest: kernel-guest
ooh-module-guest-debug: kernel-guest-debug

criu:			## CRIU with libooh, and Redis, for VMs that track their processes
	@scripts/build-criu
	@scripts/build-images --criu

tools:			## spanctl, span-ps
	@scripts/build-tools

selftests: kernel-trimmed	## KVM selftests and our one-file tests
	@scripts/build-selftests

images: bochs qemu kernel kvm port ooh-module tools selftests	## boot images of all levels
	@scripts/build-images

unit: tools qemu kvm-trimmed	## unit tests on the host (ASan, UBSan)
	@tests/run --filter '^unit/'

test: images		## every test; with the debug kernel first, if it is chosen
ifneq ($(FILTER)$(TAG)$(KERNEL),)
	@tests/run $(if $(FILTER),--filter '$(FILTER)') $(if $(TAG),--tag $(TAG)) $(if $(KERNEL),--kernel $(KERNEL))
else
	@rc=0; failures=build/results/failures; mkdir -p build/results; : >$$failures; \
	$(if $(filter debug,$(kernels)),tests/run --kernel debug --tag debug --timeout 900 --failures $$failures \
		--filter '^(mem/(api|capability|revoke|stress-debug|watch-api|event|mask|log-debug|holes|nested-tiny|model-debug|fail-nth)|vcpu/owner)$$' || rc=1;) \
	tests/run --failures $$failures || rc=1; \
	echo "# $(if $(filter debug,$(kernels)),both runs,the run): $$([ $$rc = 0 ] && echo everything passed || echo NOT everything passed)"; \
	head -n 30 $$failures; exit $$rc
endif

test-debug: images	## all tests that can run with the debug kernel at L0 (long)
	@tests/run --kernel debug --tag debug --timeout 900

bench: images		## figures, printed and in build/results/bench.json
	@tests/bench/run

demo: images		## the whole thing at work, with commentary
	@scripts/demo

demo-ooh: images	## a VM's processes and the processor's log of what they write
	@scripts/demo-ooh

shell: images		## make shell LEVEL=L1a: a console on a level of the machine
	@scripts/shell $(or $(LEVEL),L0) $(if $(TOPOLOGY),--topology $(TOPOLOGY))

config:			## write .config with the defaults
	@scripts/config default
menuconfig:		## choose features, kernels and sizes
	@scripts/config menu

dkms:			## self-contained DKMS trees in build/dkms
	@scripts/build-dkms

checkpatch:		## kernel and QEMU style
	@scripts/checkpatch

clean:			## remove results and images, keep builds and downloads
	rm -rf build/results build/images build/tests

distclean:		## remove everything that was built or fetched
	rm -rf build .config .config.old
