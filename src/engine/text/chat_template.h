/*
 * Chat templates: a subset of Jinja2 that covers the templates of published chat models.
 */
#ifndef MOE_CHAT_TEMPLATE_H
#define MOE_CHAT_TEMPLATE_H

#include <jansson.h>

#include "../support.h"

/* Renders a template (zero-terminated) with the members of the JSON object `variables` as its variables,
 * in their order, exactly as jinja2 does with trim_blocks and lstrip_blocks, the loopcontrols
 * extension, raise_exception, strftime_now and transformers' tojson.  now: seconds since the epoch for
 * strftime_now (local time zone of the process).  Work and output are bounded: a template that loops without
 * end is an error.  Errors: MOE_ERR_TEMPLATE with the line, or the message that the template raised. */
moe_status moe_template_render(const char *source, const json_t *variables, int64_t now,
                               const moe_cancel *cancel, moe_buf *out, moe_error *err);

#endif
