# What one types here. `make` lists it; .ci/run is the whole of it, on a bare machine.

GO        ?= go
PACKAGES  ?= ./... ./testdata # ./... leaves out every folder named testdata
ENVOYS    ?= 1.40.0 1.36.4
ALL_ENVOYS = 1.36.4 1.37.0 1.38.3 1.39.3 1.40.0
# The race detector needs a C compiler; without one the tests run without it.
RACE      ?= $(shell command -v $$($(GO) env CC) >/dev/null && echo -race)
TESTFLAGS ?=
FUZZTIME  ?= 20s

.PHONY: help run build build-tools test test-envoys test-outage test-usage test-clickhouse test-webhooks test-k8s test-egctl test-oauth test-oauth-servers test-before test-times test-log-loss test-scan test-chart test-image image chart-files kind-up bench bench-short bench-envoy pgo check fuzz caddy tools clean ready-to-run ready-to-bench ready-to-test

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 22

# The last line is a single command, so make runs it without a shell between and passes signals on to it.
run: ready-to-run build build-tools ## Tollgate, four APIs and a real Envoy, until Ctrl-C; ARGS=--once sends the requests itself
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@bin/tollgate-demo $(ARGS)

# The profile (default.pgo) makes checks cheaper and every first build a minute longer, so what only runs or tests does without.
PGO ?= auto
run test bench-short: PGO = off

# Which commit a binary is of, for tollgate version and the log.
STAMP = $(shell git log -1 --format='-X main.commit=%H -X main.commitDate=%cI' 2>/dev/null)

# With -trimpath Go compiles everything anew, so only what is built with the profile, to be used or measured, has it.
BUILDFLAGS = -pgo=$(PGO) $(if $(filter off,$(PGO)),,-trimpath)

build: ## bin/tollgate
	@$(GO) build $(BUILDFLAGS) -ldflags "$(STAMP)" -o bin/tollgate ./cmd/tollgate

# The benchmark is also the always-allow server that checks are compared with: without the server's profile that would be
# slower than it need be, and our ratios would flatter.
build-tools:
	@$(GO) build $(patsubst -pgo=auto,-pgo=cmd/tollgate/default.pgo,$(BUILDFLAGS)) -o bin/ ./cmd/tollgate-bench ./cmd/tollgate-demo

# -count=1: a result from before redis-server was installed would hide that its tests were skipped.
# The server's own tests come last, so that the last lines are theirs.
test: ready-to-test build ## every test, also those through a real Envoy and a real Redis
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh $(ENVOYS) || echo 'make: going on without all of Envoy $(ENVOYS)' >&2
	@.ci/sdk || echo "make: going on without pictify's SDK" >&2
	@.ci/test-k8s
	@test -n "$(RACE)" || echo 'make: no C compiler, so NO RACE DETECTOR' >&2
	@$(GO) test -count=1 -vet=off -run 'Allocat|MemoryOf|^TestDigest|^TestNeverOverAdmits|^TestDay$$|^TestRevocationUnderLoad$$' ./policy/keys ./policy/keys/cache ./policy/limits/counters ./policy/usage ./extauthz/grpcserver # what the detector's own memory would hide, or takes minutes with it
	@TOLLGATE_ENVOYS="$(ENVOYS)" $(GO) test -count=1 -pgo=off $(RACE) $(TESTFLAGS) $(PACKAGES)

test-envoys: ## the tests through Envoy, with every version that is supported
	@$(MAKE) --no-print-directory test ENVOYS="$(ALL_ENVOYS)" PACKAGES="./envoy/... ./extauthz/... ./cmd/..."

# How often each setting is measured. Each takes 13 to 18 seconds, and there are 8.
RUNS ?= 10
test-outage: ready-to-bench ## replicas that restart and die under 2,000 requests a second; RUNS=1 is a shorter look
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@$(GO) test -count=1 -pgo=off -timeout 60m -v -run TestReplicasLeave ./cmd/tollgate -args -outage $(RUNS)

# How many requests are counted.
REQUESTS ?= 200000
test-usage: ready-to-bench ## usage, exactly: 200,000 requests through Envoy and three servers, one of which ends meanwhile
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@$(GO) test -count=1 -pgo=off -timeout 60m -v -run TestUsageThroughEnvoy ./cmd/tollgate -args -usage $(REQUESTS)

test-clickhouse: ready-to-test ## the history of usage, in ClickHouse's real engine (0.9 GB in .tools)
	@.ci/chdb
	@TOLLGATE_REQUIRE=clickhouse,redis $(GO) test -count=1 -pgo=off -run 'TestRealEngine|TestScripts/clickhouse' ./policy/usage/clickhouse ./cmd/tollgate

# Containers of the cluster have users, networks and roots of their own, so it runs as root, and in namespaces that end with it.
RUN ?= ^TestCluster
test-k8s: ## manifests and chart in a real Kubernetes (built from its modules, 5 minutes once) whose node the tests play; Linux, as root
	@.ci/prerequisites redis-server ip unshare
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@CGO_ENABLED=0 $(GO) build -pgo=off -ldflags "$(STAMP)" -o bin/static/tollgate ./cmd/tollgate
	@cd k8s && $(GO) test -c -o ../bin/k8s.test .
	@kubernetes=$$(.ci/kubernetes) && cd k8s && TOLLGATE_KUBERNETES=$$kubernetes TOLLGATE_REQUIRE=kubernetes \
		unshare --net --mount --pid --fork --kill-child --mount-proc ../bin/k8s.test -test.v -test.timeout 30m -test.run '$(RUN)'

test-egctl: ready-to-test ## what Envoy Gateway makes of the manifests, by its egctl (built from its module, 20 minutes once), in a real Envoy
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@.ci/egctl >/dev/null
	@TOLLGATE_REQUIRE=egctl,envoy,redis $(GO) test -count=1 -pgo=off -v -run TestScriptThroughEnvoyGateway ./envoy

# Another implementation of what signs alerts. CI has no npm.
test-webhooks: ready-to-test ## alerts: their signature is verified by npm's standardwebhooks
	@mkdir -p .tools/standardwebhooks-1.1.1
	@cd .tools/standardwebhooks-1.1.1 && test -d node_modules/standardwebhooks || npm install --no-audit --no-fund --silent standardwebhooks@1.1.1
	@TOLLGATE_REQUIRE=standardwebhooks $(GO) test -count=1 -pgo=off -v -run TestVerifiedByAnother ./policy/alerts/webhook

# An authorization server that nobody here has written. CI runs it where there is npm.
test-oauth: ready-to-test ## OAuth: npm's oidc-provider behind a real Envoy: tokens, scopes, rotation, outage
	@.ci/oidc
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@TOLLGATE_REQUIRE=oauth,envoy $(GO) test -count=1 -pgo=off -v -run OAuth ./cmd/tollgate ./policy/oauth/... ./envoy

# Another family of authorization servers. It takes Java, Maven and a minute of waiting for keys.
test-oauth-servers: ready-to-test ## OAuth: Spring Authorization Server behind a real Envoy, built from Maven
	@.ci/spring
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@TOLLGATE_REQUIRE=oauth-servers,envoy $(GO) test -count=1 -pgo=off -v -run OAuthSpring ./envoy

# The commit before requests under way were limited.
BEFORE = 91166f4
test-before: ready-to-test ## servers of the version before beside those of this one
	@rm -rf bin/before && mkdir -p bin/before && git archive $(BEFORE) | tar -x -C bin/before
	@cd bin/before && $(GO) build -pgo=off -o ../tollgate-before ./cmd/tollgate && rm -rf ../before
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@TOLLGATE_BEFORE=$(CURDIR)/bin/tollgate-before TOLLGATE_REQUIRE=envoy,redis $(GO) test -count=1 -pgo=off -v -run TestBesideTheVersionBefore ./cmd/tollgate

test-times: ready-to-test ## how soon a request passes after the end of another, 200 times each, by a page's figures
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@TOLLGATE_TIMES=judge TOLLGATE_REQUIRE=envoy,redis $(GO) test -count=1 -pgo=off -v -run TestNextRequestIsLetThroughSoon ./envoy

test-log-loss: ready-to-test ## entries of access logs and slots that connection ages and rolling restarts lose, some minutes
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@TOLLGATE_LOSS=full TOLLGATE_REQUIRE=envoy,redis $(GO) test -count=1 -pgo=off -timeout 30m -v -run 'LoseNo' ./envoy ./cmd/tollgate

test-scan: ## first look-ups of keys beside 20,000 guesses a second, or half of what the machine can do
	@TOLLGATE_SCAN=full $(GO) test -count=1 -v -run TestFirstLookUpsDuringAScan ./cmd/tollgate

# An OCI archive, and what is in each binary (SPDX) beside it. PUSH also needs the credentials of docker login, if any.
image: ready-to-run ## bin/tollgate-image.tar for amd64 and arm64, without Docker; PUSH=REGISTRY/NAME:TAG pushes it
	@cd k8s && $(GO) run ./image -pgo=$(PGO) $(if $(PUSH),-push $(PUSH))

test-image: PGO = off
test-image: image ## the image runs as its own user on a read-only root, and answers a check
	@cd k8s && TOLLGATE_IMAGE=$(CURDIR)/bin/tollgate-image.tar $(GO) test -count=1 -v -run 'TestBinariesAreStatic|TestImageAnswers' ./image

# Helm's engine takes a minute to compile, so CI does without.
test-chart: ready-to-run ## the Helm chart: rendered for many values, every object judged; no cluster
	@cd k8s/charttest && $(GO) mod tidy -diff && $(GO) test -count=1 ./...

chart-files: ## write what is made from the chart: its README.md, k8s/tollgate.yaml and the files of the gateways
	@cd k8s/charttest && $(GO) test -count=1 -run 'TestReadme|TestManifests|TestIntegrationFiles' . -update

kind-up: ## for people with Docker, kind, kubectl and helm: a cluster with the trial of k8s/README.md in it
	@.ci/kind-up

bench: ready-to-bench build build-tools ## what a decision costs beside always-allow, some minutes; ARGS=--growth also to 1,000,000 keys
	@bin/tollgate-bench --chart bin/bench.svg $(ARGS)

# The generated code is compared in the tests and in .ci/fuzz, too; here because it belongs to what makes checks cheap.
bench-short: ready-to-bench build build-tools ## a moment of bench: allocations are judged, no time; and the codec against the generated one
	@bin/tollgate-bench --short --chart= $(ARGS)
	@$(GO) test -count=1 -vet=off -run 'FuzzDecode|TestDecodersAgree|TestKindsOfFields|TestRepliesAreThose' ./extauthz/grpcserver

bench-envoy: ready-to-bench build build-tools ## what it adds through a real Envoy
	@test -n "$(ENVOY_BIN)" || envoy/fetch.sh || command -v envoy
	@bin/tollgate-bench envoy --chart bin/bench-envoy.svg $(ARGS)

# The profile is of a build without one, so that it does not follow from itself.
pgo: ready-to-bench ## measure anew what the compiler optimises the binary for (cmd/tollgate/default.pgo)
	@$(GO) build -pgo=off -trimpath -o bin/ ./cmd/tollgate ./cmd/tollgate-bench
	@bin/tollgate-bench --rounds 1 --unjudged --chart= --profile bin/default.pgo
	@mv bin/default.pgo cmd/tollgate/default.pgo

check: ready-to-run ## formatting, vet, staticcheck, known vulnerabilities, go.mod, and in CI a clean tree
	@.ci/check

fuzz: ## each fuzz target, FUZZTIME (20s) or a quarter of it
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

caddy: ready-to-run ## a Caddy newer than Debian's, for the tests behind other proxies; built from source, 2 minutes
	@envoy/http/fetch-caddy.sh

tools: ready-to-run caddy ## all Envoys, a new Caddy and staticcheck, for working without a network later
	@envoy/fetch.sh $(ALL_ENVOYS)
	@$(GO) tool -modfile=.ci/tools/go.mod staticcheck -version

clean: ## remove what these commands made
	@rm -rf bin .tools

ready-to-run:
	@.ci/prerequisites

ready-to-bench:
	@.ci/prerequisites redis-server

ready-to-test:
	@.ci/prerequisites redis-server gcc
