# meshpdb: a PodDisruptionBudget that spans the clusters of a Cilium ClusterMesh.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

BIN := bin
DEV := go tool -modfile=.tools/dev/go.mod
# Everything but the packages that start servers or clusters.
FAST := $$(go list ./... | grep -vE '/e2e|/pkg/(mesh|ledger)$$')

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the binaries into bin/
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/ ./cmd/...

PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

.PHONY: plugin
plugin: ## Build kubectl-meshpdb for PLATFORMS into dist/, an archive each, as deploy/krew/meshpdb.yaml names them
	@for p in $(PLATFORMS); do \
		os=$${p%/*}; arch=$${p#*/}; out=dist/$${os}_$$arch; mkdir -p $$out; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -trimpath -ldflags='-s -w' -o $$out/kubectl-meshpdb ./cmd/kubectl-meshpdb; \
		cp LICENSE cmd/kubectl-meshpdb/kubectl_complete-meshpdb $$out/; \
		tar -C $$out -czf dist/kubectl-meshpdb_$${os}_$$arch.tar.gz .; \
	done; ls -l dist/*.tar.gz

.PHONY: demo
demo: ## Drain three real clusters at once: first under native budgets, then under meshpdb
	@echo "compiling the demo, which takes some minutes the first time and seconds after that"
	@mkdir -p $(BIN) && go build -o $(BIN)/demo ./e2e/demo
	@$(BIN)/demo

.PHONY: test
test: ## Run all tests with the race detector, those on real clusters included
	@# Compiled by all cores first: -p 1, which keeps packages from starting clusters side by side, holds for compilers as well.
	@go list -race -export -test -deps ./... >/dev/null
	go test -race -timeout 60m -p 1 ./...

.PHONY: test-fast
test-fast: ## Run the tests that start no server, in under a minute
	go test -race -short $(FAST)

.PHONY: verify-models
verify-models: ## Search the protocol's models for counterexamples: all of them, or ROWS='X.*|H01'
	go run ./pkg/claim/model/verify -rows '$(or $(ROWS),.*)' -write pkg/claim/model/results.md

.PHONY: trace-model
trace-model: ## Show how a rule is broken, by the counterexample of a row of pkg/claim/model/rows.md: ROW=X09
	@go run ./pkg/claim/model/verify -trace '$(ROW)'

TIME ?= 30s

.PHONY: fuzz
fuzz: ## Feed every decoder with hostile input, each for TIME (30s)
	@targets=$$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' pkg | wc -l); run=0; \
	for package in $$(grep -rlE --include='*_test.go' '^func Fuzz' pkg | xargs -n1 dirname | sort -u); do \
		for target in $$(go test -list '^Fuzz' ./$$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			go test ./$$package -run '^$$' -fuzz "^$$target$$" -fuzztime $(TIME); \
			run=$$((run + 1)); \
		done; \
	done; \
	if [ $$run != $$targets ]; then echo "$$run of $$targets targets were run"; exit 1; fi

.PHONY: e2e
e2e: ## Run only the tests on real clusters
	go test -race -timeout 60m -p 1 -v ./e2e/...

.PHONY: soak
soak: ## Simulate whole meshes for as long as asked: FOR=1h, or SEEDS=10000
	go test ./pkg/simulation -run TestSoak -v -timeout 0 -seeds $(or $(SEEDS),0) -for $(or $(FOR),$(if $(SEEDS),0,10m)) -from $(or $(FROM),1000000)

.PHONY: faults
faults: ## Break real clusters in every way that a test knows, and write docs/failures.md anew
	go test -race -timeout 60m -v ./e2e/faults -skip TestRandomFaults -args -long -report=$(CURDIR)/docs/failures.md

.PHONY: race
race: ## Fight for pods on real clusters for FOR=30m while faults come at random, from a SEED if given
	go test -race -timeout 24h -v ./e2e/faults -run TestRandomFaults -args -race-for=$(or $(FOR),30m) -race-seed=$(or $(SEED),0) -report=$(CURDIR)/docs/failures.md

.PHONY: generate
generate: ## Generate deep copies and CRDs from the API types, docs/paths.md, docs/metrics.md and alerts
	$(DEV) controller-gen object paths=./pkg/api/... crd output:crd:dir=deploy/crd
	go test ./pkg/paths -run TestDocument -update
	go test ./cmd/meshpdb-controller -run TestMetricsDocument -update
	go test ./deploy/monitoring -run TestOperatorsRules -update

.PHONY: verify
verify: lint ## Check that generated files and modules are up to date, and lint
	@before=$$(git status --porcelain); $(MAKE) generate; go mod tidy; \
	after=$$(git status --porcelain); \
	if [ "$$before" != "$$after" ]; then echo "generated files or go.mod are out of date: commit what 'make generate' and 'go mod tidy' changed"; git --no-pager diff --stat; exit 1; fi

.PHONY: lint
lint: ## Check formatting, go vet and staticcheck
	@unformatted=$$(gofmt -l cmd pkg e2e deploy .tools); if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	go vet ./...
	$(DEV) staticcheck ./...

.PHONY: bench
bench: ## Measure latency, throughput and cost, and write docs/performance.md anew
	go test -run "^$$" -bench . ./pkg/budget/
	@echo "compiling the benchmark, which takes some minutes the first time and seconds after that"
	@mkdir -p $(BIN) && go build -o $(BIN)/bench-run ./e2e/bench
	@$(BIN)/bench-run
