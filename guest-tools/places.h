/* SPDX-License-Identifier: GPL-2.0 */
/* Where in the window something of the guest lies, as ranges for spanctl. */
#ifndef PLACES_H
#define PLACES_H

#include "kernel.h"

#define MAX_TEXT_RANGES	64

struct places {
	struct text_range text[MAX_TEXT_RANGES];
	size_t texts;
	bool has_address;
	uint32_t pid;
	uint64_t va, offset;
	struct mapping at;
};

bool places_text(struct image *img, const struct kernel *k, struct places *p);
/* @pgd: of the process @pid, or of the kernel (0). False if nothing is mapped there. */
bool places_address(struct image *img, const struct kernel *k, uint64_t pgd, uint32_t pid,
		    uint64_t va, struct places *p);
void places_print(const struct places *p, bool json);

#endif
