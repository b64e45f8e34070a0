/* SPDX-License-Identifier: GPL-2.0 */
#ifndef UNITS_H
#define UNITS_H

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* "4096", "0x1000", "4k", "2G": false for anything else and on overflow. */
static inline bool parse_size(const char *text, uint64_t *value)
{
	unsigned int shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno || end == text)
		return false;
	switch (*end) {
	case 'k': case 'K':
		shift = 10;
		break;
	case 'm': case 'M':
		shift = 20;
		break;
	case 'g': case 'G':
		shift = 30;
		break;
	}
	if (shift)
		end++;
	if (*end || (shift && *value >> (64 - shift)))
		return false;
	*value <<= shift;
	return true;
}

#endif
