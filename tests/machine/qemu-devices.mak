# SPDX-License-Identifier: GPL-2.0
# The devices of the test machine's QEMU; everything else stays out, so that
# the binary is small enough to live in every level's initramfs.
CONFIG_MICROVM=y
CONFIG_Q35=y
CONFIG_PCI_DEVICES=n
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_RNG=y
CONFIG_ISA_DEBUG=y
CONFIG_SERIAL_ISA=y
CONFIG_VIRTIO_PCI=y
CONFIG_PCIE_PORT=y
CONFIG_EDU=y
CONFIG_SPAN_PORT=y
# wrong state for the loaders of devices
CONFIG_SPAN_FUZZ=y
