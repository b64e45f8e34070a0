# SPDX-License-Identifier: GPL-2.0
# What single tests need beyond their own file: sources, flags, libraries.

TOOLS := $(TOP)/guest-tools
$(O)/test-span-ps: $(addprefix $(TOOLS)/,image.c kernel.c btf.c tasks.c places.c)
SPANCTL := $(addprefix $(TOOLS)/,spanctl-output.c spanctl-port.c spanctl-data.c spanctl-watch.c \
	spanctl-dirty.c session.c pages.c)
$(O)/test-spanctl: $(SPANCTL) $(TOOLS)/port-client.c $(TOOLS)/watch-client.c
$(O)/test-spanctl-watch: $(SPANCTL)
CFLAGS_test-span-ps := -D_GNU_SOURCE -I$(TOOLS) -Wno-format-zero-length
CFLAGS_test-spanctl := -D_GNU_SOURCE -I$(TOOLS) -Wno-format-zero-length
LIBS_test-span-ps := -lbpf -lelf -lz -ljson-c
CFLAGS_test-spanctl-watch := $(CFLAGS_test-spanctl)
LIBS_test-spanctl := -ljson-c
LIBS_test-spanctl-watch := -ljson-c
CFLAGS_test-span-wire := -I$(QEMU) -I$(QEMU)/include
CFLAGS_test-span-chan := $(CFLAGS_test-span-wire)
LIBOOH := $(TOOLS)/libooh
$(O)/test-libooh: $(addprefix $(LIBOOH)/src/,ooh.c ranges.c pagemap.c wp-async.c soft-dirty.c tracee.c device.c)
CFLAGS_test-libooh := -D_GNU_SOURCE -I$(LIBOOH)/include -I$(LIBOOH)/src -I$(TOOLS)/ooh-module/include/uapi
$(O)/test-ooh-tool: $(addprefix $(LIBOOH)/src/,ooh.c ranges.c pagemap.c wp-async.c soft-dirty.c tracee.c device.c) \
	$(addprefix $(LIBOOH)/tool/,tool-output.c tool-top.c tool-track.c)
CFLAGS_test-ooh-tool := $(CFLAGS_test-libooh) -I$(LIBOOH)/tool
LIBS_test-ooh-tool := -ljson-c
