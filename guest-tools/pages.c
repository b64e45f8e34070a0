// SPDX-License-Identifier: GPL-2.0
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "pages.h"
#include "units.h"

#define PAGE_SHIFT	12
#define PAGE_BYTES	(1ull << PAGE_SHIFT)
#define MAX_PAGES	(1ull << 40)

/* In bytes; a plain number is multiplied. */
static bool parse_place(const char *text, uint64_t *bytes, bool *in_pages)
{
	size_t len = strlen(text);

	*in_pages = false;
	if (text[0] == '@')
		return parse_size(text + 1, bytes);
	if (!len || !parse_size(text, bytes))
		return false;
	if (strchr("kKmMgG", text[len - 1]))
		return true;
	if (*bytes >= MAX_PAGES)
		return false;
	*in_pages = true;
	*bytes <<= PAGE_SHIFT;
	return true;
}

bool parse_range(const char *text, struct page_range *range)
{
	uint64_t start, end, second;
	bool in_pages;
	char copy[64], *sign, kind;

	if (!strcmp(text, "all")) {
		*range = (struct page_range){ 0 };
		return true;
	}
	if (strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	sign = strpbrk(copy, "+-");
	kind = sign ? *sign : 0;
	if (sign)
		*sign = 0;
	if (!parse_place(copy, &start, &in_pages))
		return false;
	if (sign && !parse_place(sign + 1, &second, &in_pages))
		return false;
	if (kind == '+')
		end = start + second;
	else if (kind == '-')	/* the last page, or byte, belongs to it */
		end = second + (in_pages ? PAGE_BYTES : 1);
	else
		end = start + 1;
	if (end <= start || end > MAX_PAGES << PAGE_SHIFT)
		return false;
	range->first = start >> PAGE_SHIFT;
	range->pages = ((end + PAGE_BYTES - 1) >> PAGE_SHIFT) - range->first;
	return true;
}

bool clip_range(struct page_range *range, uint64_t pages)
{
	if (range->first >= pages)
		return false;
	if (!range->pages)
		range->pages = pages - range->first;
	return range->pages <= pages - range->first;
}

int parse_access(const char *text)
{
	int access = 0;

	if (!strcmp(text, "none"))
		return 0;
	if (!*text)
		return -1;
	for (; *text; text++) {
		switch (*text) {
		case 'r':
			access |= SPAN_ACCESS_R;
			break;
		case 'w':
			access |= SPAN_ACCESS_W;
			break;
		case 'x':
			access |= SPAN_ACCESS_X;
			break;
		default:
			return -1;
		}
	}
	return access;
}

const char *access_word(uint8_t access)
{
	switch (access) {
	case SPAN_ACCESS_R:
		return "read";
	case SPAN_ACCESS_W:
		return "write";
	case SPAN_ACCESS_X:
		return "execute";
	default:
		return "?";
	}
}

const char *source_word(uint8_t source)
{
	switch (source) {
	case SPAN_SOURCE_GUEST_L0:
		return "guest";
	case SPAN_SOURCE_GUEST_L1:
		return "guest on L1";
	case SPAN_SOURCE_L1:
		return "L1";
	case SPAN_SOURCE_L0:
		return "controller";
	default:
		return "?";
	}
}

/* Appends to what @text holds, as far as there is room. */
static void __attribute__((format(printf, 3, 4)))
append(char *text, size_t len, const char *format, ...)
{
	size_t at = strlen(text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(text + at, len - at, format, ap);
	va_end(ap);
}

void event_text(char *text, size_t len, const struct span_watch_event *e)
{
	snprintf(text, len, "%" PRIu64 ".%06u %s of page 0x%x by %s",
		 (uint64_t)(e->time_ns / 1000000000), (unsigned int)(e->time_ns / 1000 % 1000000),
		 access_word(e->access), e->page, source_word(e->source));
	if (e->vcpu != 0xffff)
		append(text, len, " vcpu %u", e->vcpu);
	if (e->gpa != ~0ull)
		append(text, len, " gpa 0x%" PRIx64, (uint64_t)e->gpa);
	if (e->rip)
		append(text, len, " rip 0x%" PRIx64, (uint64_t)e->rip);
	if (e->cr3)
		append(text, len, " cr3 0x%" PRIx64, (uint64_t)e->cr3);
	if (e->flags & SPAN_EVENT_F_WALK)
		append(text, len, " (page walk)");
	if (e->flags & SPAN_EVENT_F_DELIVERY)
		append(text, len, " (event delivery)");
	if (e->flags & SPAN_EVENT_F_VIOLATION)
		append(text, len, ": denied");
	else if (e->flags & SPAN_EVENT_F_AFTER)
		append(text, len, ": has happened");
}
