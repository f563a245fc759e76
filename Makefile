# Every target is one script or module; CI runs `make test` and nothing else.
# Versions are pinned with hashes in requirements*.lock (`scripts/lock` renews them).

VENV    := .venv
PY      := $(VENV)/bin/python
CONFIG  ?=
HOST    ?=
PORT    ?=
OUT     ?=
ARGS    ?=
export OUT STREAMS PAIRS TOOLS SHAPES

.DEFAULT_GOAL := help
.PHONY: help install install-serve run test check bench bench-cache bench-router bench-agent bench-prompts bench-scale bench-conditions bench-guard bench-start chaos fuzz soak lock

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: ## Make .venv with exactly the locked packages, and this project in it.
	@scripts/install

install-serve: # Only the packages that serving needs.
	@scripts/install serve

# Ctrl-C is the normal way to stop it, so make reports no error.
run: install-serve ## Serve http://127.0.0.1:8080 (CONFIG=file, HOST=, PORT=); needs no key.
	@trap : INT; "$(VENV)/bin/slipstream" serve $(if $(CONFIG),--config "$(CONFIG)") $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") \
	|| { code=$$?; [ $$code -eq 130 ] || exit $$code; }

check: install ## Lint, format, types and import rules.
	@scripts/check

test: ## Everything CI runs: system packages, check and all tests (ARGS= for pytest).
	@scripts/test $(ARGS)

bench: install ## Added latency, throughput and CPU against other gateways.
	@scripts/bench overhead $(ARGS)

bench-cache: install ## Hit rate and false hits (STREAMS=dir PAIRS=dir OUT=file).
	@scripts/bench cache $(ARGS)

bench-router: install ## Quality and cost of the router (PAIRS=file TOOLS=dir OUT=file).
	@scripts/bench router $(ARGS)

bench-agent: install ## Agent runs: max(calls) against sum(calls) (SHAPES=dir OUT=file).
	@scripts/bench agent $(ARGS)

bench-prompts: install ## Prompt-cache hits and wasted tokens (OUT=file).
	@scripts/bench prompts $(ARGS)

bench-scale: install ## Workers, connections and memory under load (OUT=file).
	@scripts/bench scale $(ARGS)

bench-conditions: install ## Behind TLS, at a distance, beside heavy work, on a semantic miss (OUT=file).
	@scripts/bench conditions $(ARGS)

bench-guard: install ## What a request costs beside a bare pass-through, as a ratio that must not grow.
	@scripts/bench guard

bench-start: install ## Import time, start until ready with the embedding model, and memory (OUT=file).
	@scripts/bench start $(ARGS)

chaos: install ## Fault injection: stores gone, upstreams slow, processes killed.
	@scripts/bench chaos $(ARGS)

fuzz: install ## A million broken inputs for every decoder (ARGS="--count N --seed N").
	@scripts/bench fuzz $(ARGS)

soak: install ## A million short requests: memory, descriptors and tasks (ARGS="--count N").
	@scripts/bench soak $(ARGS)

lock: ## Renew the lock files from pyproject.toml.
	@scripts/lock
