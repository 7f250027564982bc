/*-------------------------------------------------------------------------
 *
 * jansson_names.c
 *	  The one function of the JSON library whose name the server has too.
 *
 * The engine uses jansson, and calls its json_object().  So is called an
 * SQL function inside the postgres executable, which the dynamic linker
 * would find first.  A definition that is hidden in this library binds the
 * engine's calls when the library is linked.  (The library's own calls do not go
 * through the dynamic linker.)
 *
 *-------------------------------------------------------------------------
 */
#include <jansson.h>

extern __attribute__((visibility("hidden"))) json_t *json_object(void);

/*
 * An empty object, or NULL if memory is short
 */
json_t *
json_object(void)
{
	return json_pack("{}");
}
