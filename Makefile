# pg_moe: Mixture-of-Experts language models inside PostgreSQL.
#
# As in any PGXS extension:    make, make install, make installcheck, make clean
# Without a server at hand:    make deps     installs what building and testing need (Debian, as root)
#                              make check    builds, installs and runs every test in a throw-away cluster
#                              make demo     the same for a short tour of the SQL functions
#                              make unit     tests of the engine alone; needs no PostgreSQL
#                              make models   fetches two real models into .models/
#                              make bench    measures speed and memory; PEERS=dir adds other programs
#                              make soak     many sessions, cancels and terminations; MINUTES=10 CLIENTS=16 HOST=backend
#
# Arrows point one way: src/pg uses src/engine uses kernels.  The latter two are plain C with flags
# of their own; only src/pg is compiled with PostgreSQL's.  Every object lies below $(BUILD).
#
#   PG_CONFIG=...   another PostgreSQL         COPT=...    further compiler flags, e.g. -Werror
#   BUILD=...       another folder, e.g.       make unit BUILD=build/asan COPT=-fsanitize=address,undefined

PG_CONFIG ?= pg_config
BUILD ?= build
export PG_CONFIG BUILD
, := ,

all:

# --- the engine ------------------------------------------------------------------------------------

ENGINE_SRCS := $(wildcard src/engine/*.c src/engine/*/*.c src/engine/*/*/*.c kernels/*.c kernels/cpu/*.c)
ENGINE_OBJS := $(ENGINE_SRCS:%.c=$(BUILD)/%.o)

# OpenBLAS comes in three builds with one soname.  Only the serial one may be loaded into a server
# (the others start threads), so its folder is also the first that the loader looks into.
BLAS_INCLUDE := $(firstword $(wildcard /usr/include/*-linux-gnu/openblas-serial))
BLAS_LIB := $(firstword $(wildcard /usr/lib/*-linux-gnu/openblas-serial))
ENGINE_LIBS := $(if $(BLAS_LIB),-L$(BLAS_LIB) -Wl$(,)-rpath$(,)$(BLAS_LIB)) -lopenblas \
               -lpcre2-8 -lutf8proc -ljansson -lcrypto -lpthread -lm

ENGINE_CFLAGS = -std=gnu11 -g $(OPTIMIZE) $(ISA) -fPIC -fvisibility=hidden -ffp-contract=off \
                -Wall -Wextra -Wmissing-prototypes -Wvla $(addprefix -isystem ,$(BLAS_INCLUDE)) $(COPT)
OPTIMIZE = -O2
AVX2 := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
$(BUILD)/kernels/%.o: OPTIMIZE = -O3
%_avx2.o: ISA = $(AVX2)
%_avx512.o: ISA = $(AVX512)
%_avx512_bf16.o: ISA = $(AVX512) -mavx512bf16
%_amx.o: ISA = $(AVX512) -mamx-tile -mamx-int8 -mamx-bf16

$(ENGINE_OBJS): $(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) -MMD -MP -c $< -o $@
-include $(ENGINE_OBJS:.o=.d)

# --- targets that do not need PostgreSQL, or install it first -------------------------------------------

PROJECT_TARGETS := deps unit check demo models bench soak
ifneq ($(filter $(PROJECT_TARGETS),$(MAKECMDGOALS)),)
.PHONY: $(PROJECT_TARGETS) all install installcheck uninstall clean

deps models:
	@test/$@.sh

check demo soak: deps
	@test/$@.sh

UNIT_TESTS := $(patsubst %.c,$(BUILD)/%,$(wildcard test/unit/test_*.c))
UNIT_COMMON := $(patsubst %.c,$(BUILD)/%.o,$(filter-out test/unit/test_%,$(wildcard test/unit/*.c)))
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard test/bench/*.c))

$(BUILD)/libmoe.a: $(ENGINE_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(UNIT_COMMON): $(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) -MMD -MP -c $< -o $@

$(UNIT_TESTS) $(BENCHES): $(BUILD)/%: %.c $(BUILD)/libmoe.a
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) -Ikernels -MMD -MP $< $(filter %.o,$^) $(BUILD)/libmoe.a -o $@ $(ENGINE_LIBS) \
		$(if $(filter test/unit/%,$<),-lcmocka)
$(UNIT_TESTS): $(UNIT_COMMON)
-include $(addsuffix .d,$(UNIT_TESTS) $(BENCHES)) $(UNIT_COMMON:.o=.d)

unit: $(UNIT_TESTS)
	@test/unit.sh $^

bench: $(BENCHES)
	@test/bench/run.sh

all install installcheck uninstall clean: # together with one of the targets above
	@$(MAKE) $@

# --- the extension, by PGXS -----------------------------------------------------------------------

else
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(and $(wildcard $(PGXS)),$(wildcard $(shell $(PG_CONFIG) --includedir-server)/postgres.h)),)
$(error $(PG_CONFIG) finds no PostgreSQL server headers; "make deps" installs them, PG_CONFIG=... names another)
endif

EXTENSION := pg_moe
MODULE_big := pg_moe
DATA := $(wildcard sql/pg_moe--*.sql)
OBJS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard src/pg/*.c)) $(ENGINE_OBJS)
PG_CPPFLAGS := -MMD -MP
SHLIB_LINK := -Wl$(,)--version-script=src/pg/exports.map $(ENGINE_LIBS)

REGRESS := $(basename $(notdir $(wildcard test/sql/*.sql)))
REGRESS_OPTS := --inputdir=test
ISOLATION := $(basename $(notdir $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS := --inputdir=test/isolation
EXTRA_CLEAN := $(BUILD)

override with_llvm := no # nothing here is worth inlining into a JIT-compiled expression
include $(PGXS)

$(shlib): src/pg/exports.map

$(BUILD)/src/pg/%.o: src/pg/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -c $< -o $@
-include $(patsubst %.o,%.d,$(filter $(BUILD)/src/pg/%,$(OBJS)))

# The default model.
MODELS := $(wildcard share/*.gguf) share/CARD.md
MODEL_DIR = $(DESTDIR)$(datadir)/pg_moe

.PHONY: install-models uninstall-models
install: install-models
install-models:
	$(MKDIR_P) '$(MODEL_DIR)'
	$(INSTALL_DATA) $(MODELS) '$(MODEL_DIR)/'
uninstall: uninstall-models
uninstall-models:
	rm -f $(MODELS:share/%='$(MODEL_DIR)'/%)
endif
