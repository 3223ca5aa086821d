# The two commands of a fresh clone: `make demo` and `make test`. Needs a POSIX shell and GNU make 3.81 or later.

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
FUZZ_SECONDS ?= 60
# The interpreter to build .venv with; empty looks for one.
PYTHON ?=

.PHONY: help demo test lint smoke accuracy bench bench-quick fuzz soak audit clean sshd shells modules browser gnu-time
.PHONY: docker-up docker-test docker-demo docker-down docker-proof docker-engine docker-running docker-tools

help:
	@echo "make demo    the how-to's workflow on private servers (DEMO_ARGS='--host user@machine' for a real one)"
	@echo "make test    ruff, mypy and the whole test suite (PYTEST_ARGS for pytest, WORKERS=$(WORKERS))"
	@echo "make lint    ruff and mypy"
	@echo "make accuracy  every figure against a known cost, the kernel and GNU time; then what metering costs"
	@echo "make bench   what a task costs, beside the floor and beside others; bench-quick in under a minute"
	@echo "make soak    faults by the hundred, tasks by the thousand; prints what was held before and after"
	@echo "make fuzz    coverage-guided fuzzing of all that reads a stranger's bytes (FUZZ_SECONDS=$(FUZZ_SECONDS) each)"
	@echo "make docker-up, docker-test, docker-demo, docker-down  remote machines in Docker; see docker/README.md"
	@echo "make docker-proof  the same without Docker, as root on Debian"
	@echo "make audit   known advisories for the oldest versions that we allow; needs the network, or ADVISORIES=a clone"
	@echo "make clean   remove what the others made"

demo: $(VENV)/.installed
	@$(BIN)/covalent-sshtiming demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev sshd shells modules browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory smoke
	$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All oracles on every Python, without neighbours of our own; then the tables, which also go to build/. Says at its end
# whether any of it failed.
accuracy: $(VENV)/.installed-dev sshd gnu-time
	@failed=; \
	$(BIN)/pytest -m "" tests/test_measuring.py tests/test_interval.py tests/test_accuracy.py \
		tests/test_log.py::test_eight_processes_lose_no_record $(PYTEST_ARGS) || failed="$$failed oracles"; \
	export PYTHONPATH=tests; \
	$(BIN)/python -m benchmarks.accuracy --json build/accuracy.json $(ACCURACY_ARGS) || failed="$$failed accuracy"; \
	$(BIN)/python -m benchmarks.metering --json build/metering.json || failed="$$failed metering"; \
	if [ -n "$$failed" ]; then echo "Out of tolerance:$$failed" >&2; exit 1; fi

# Each figure of the table in benchmarks/README.md, then what the reading verbs cost; figures go to build/ too. Wants a
# quiet machine. A goal that is missed is said, and is no failure of the run.
bench: $(VENV)/.installed-dev sshd build/peers/.installed
	-@PYTHONPATH=tests $(BIN)/python -m benchmarks.speed --json build/speed.json $(BENCH_ARGS)
	-@PYTHONPATH=tests $(BIN)/python -m benchmarks.reading --json build/reading.json

bench-quick: $(VENV)/.installed-dev sshd build/peers/.installed
	-@PYTHONPATH=tests $(BIN)/python -m benchmarks.speed --quick --json build/speed-quick.json $(BENCH_ARGS)

build/peers/.installed: benchmarks/peers/requirements.txt | $(VENV)/.installed-dev
	@echo "Installing what we are compared with into build/peers"
	@$(BIN)/python -m venv build/peers
	@build/peers/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# Some minutes; the short forms are in `make test`.
soak: $(VENV)/.installed-dev sshd
	$(BIN)/pytest -m soak -s $(PYTEST_ARGS)

# The fuzzer is large and has wheels for few systems, so only this installs it. Findings and corpus stay in build/fuzz.
fuzz: $(VENV)/.installed-dev
	@$(call INSTALL,.[fuzz])
	$(BIN)/pytest -m thorough tests/test_injection.py
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS) $(FUZZ_ARGS)

docker-engine docker-running:
	@docker/machines.sh $(@:docker-%=%)

# The Python of .venv is wanted there too; 3.11 is Debian's own. See docker/README.md.
docker-up: docker-engine $(VENV)/.installed
	@docker/machines.sh up "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' | grep -v '^3.11$$')"

docker-test: docker-running $(VENV)/.installed-dev
	SSHTIMING_TEST_HOST=ada@127.0.0.1:2201 SSHTIMING_TEST_KEY=docker/keys/.ssh/id_ed25519 \
		SSHTIMING_TEST_KNOWN_HOSTS=docker/keys/.ssh/known_hosts \
		$(BIN)/pytest -n $(WORKERS) -m integration $(PYTEST_ARGS)

docker-demo: docker-running $(VENV)/.installed
	@HOME="$$PWD/docker/keys" $(BIN)/covalent-sshtiming demo --host node1

docker-down:
	@docker/machines.sh down

docker-proof: $(VENV)/.installed-dev sshd docker-tools
	SSHTIMING_REQUIRE_BUILDAH=1 $(BIN)/pytest -m docker -s $(PYTEST_ARGS)

# The oldest version of each of our own requirements that names one, to pip-audit, which lives in an environment of its
# own; where its databases cannot be reached, to a clone of one: ADVISORIES=PATH.
audit: $(VENV)/.installed-dev
	@mkdir -p build
	@$(BIN)/python -m tests.advisories > build/oldest.txt
	@if [ -n "$(ADVISORIES)" ]; then \
		$(BIN)/python -m tests.advisories "$(ADVISORIES)"; \
	else \
		test -x build/audit/bin/pip-audit || \
			{ python3 -m venv build/audit && build/audit/bin/pip install -q pip-audit; } && \
		build/audit/bin/pip-audit --strict --disable-pip --no-deps -r build/oldest.txt; \
	fi

# The smoke part of the suite under each other Python that Covalent supports and that is here; on servers of its own,
# because a machine that SSHTIMING_TEST_HOST names need not have them all.
smoke: $(VENV)/.installed-dev sshd
	@for minor in 3.10 3.11 3.12; do \
		if $(BIN)/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$minor')"; then continue; fi; \
		for python in python$$minor "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$minor.*/bin/python3; do \
			"$$python" -c 'import venv, ensurepip' 2>/dev/null || continue; \
			SSHTIMING_TEST_HOST= $(MAKE) --no-print-directory smoke-one VENV=$(VENV)-$$minor PYTHON="$$python" || exit 1; \
			break; \
		done; \
	done

.PHONY: smoke-one
smoke-one: $(VENV)/.installed-dev
	$(BIN)/pytest -m smoke $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-3.* build dist docker/keys .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Prints the first Python of 3.10 to 3.12 that can make virtual environments, or says on stderr what to install.
define FIND_PYTHON
found=; \
for python in "$(PYTHON)" python3.12 python3.11 python3.10 python3 \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[012].*/bin/python3; do \
	if [ -n "$(PYTHON)" ] && [ "$$python" != "$(PYTHON)" ]; then continue; fi; \
	"$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue; \
	found="$$python"; \
	if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then echo "$$python"; exit 0; fi; \
done; \
if [ -n "$$found" ]; then \
	version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	echo "$$found has no venv module. On Debian or Ubuntu: apt-get install python$$version-venv" >&2; \
else \
	echo "No Python of 3.10 to 3.12 was found, and Covalent needs one." >&2; \
	echo "  Debian 12, Ubuntu 22.04 and 24.04: apt-get install python3 python3-venv" >&2; \
	echo "  macOS: brew install python@3.12" >&2; \
	echo "  elsewhere: pyenv install 3.12, or uv python install 3.12 and PYTHON=path/to/python3.12" >&2; \
fi; \
exit 1
endef

# Installs with a dot for each package; pip's own words only where it fails. The user's pip configuration holds.
define INSTALL
printf 'Installing into $(VENV), a minute or two the first time '; \
{ $(BIN)/python -m pip install --disable-pip-version-check -e '$(1)' 2>&1; echo $$? > $(VENV)/.pip-status; } \
	| tee $(VENV)/pip.log | while read -r word rest; do \
		case "$$word" in Collecting|Downloading|Installing|Building) printf '.';; esac; \
	done; \
echo; \
if [ "$$(cat $(VENV)/.pip-status)" != 0 ]; then tail -n 30 $(VENV)/pip.log >&2; exit 1; fi
endef

$(VENV)/pyvenv.cfg:
	@python=$$($(FIND_PYTHON)) || exit 1; echo "Making $(VENV) with $$python"; "$$python" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(call INSTALL,.)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(call INSTALL,.[dev])
	@touch $@ $(VENV)/.installed

# Makes sure of something where it can, else says what is left out, or fails where a variable of the environment asks for it.
# Words: what it is, its Debian packages, a test of whether it is there, what is left out without it, the variable.
define NEED
@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
there() { $(3); }; \
if there; then exit 0; fi; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "Installing $(2) for $(4)"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq install -y --no-install-recommends $(2) >/dev/null; \
fi; \
if there; then exit 0; fi; \
if [ "$$$(5)" = 1 ]; then echo "$(1): not found, and $(5)=1 asks for it." >&2; exit 1; fi; \
echo "$(1): not found. Left out: $(4)." >&2; \
echo "  Debian or Ubuntu: sudo apt-get install $(2)" >&2
endef

FOUND = command -v $(1) >/dev/null

sshd:
	$(call NEED,OpenSSH's sshd,openssh-server,$(call FOUND,sshd),the tests against a real server,SSHTIMING_REQUIRE_SSHD)

shells:
	$(call NEED,Other login shells,zsh fish tcsh,$(call FOUND,zsh) && $(call FOUND,fish) && $(call FOUND,tcsh),the tests of login shells,SSHTIMING_REQUIRE_SHELLS)

# Lmod would do too.
modules:
	$(call NEED,Environment modules,environment-modules,cd /etc/profile.d && { test -e modules.sh || test -e lmod.sh || test -e z00_lmod.sh; },the tests of modules,SSHTIMING_REQUIRE_MODULES)

# One that playwright has of its own would do too.
browser:
	$(call NEED,Chromium,chromium,$(call FOUND,chromium) || $(call FOUND,chromium-browser) || $(call FOUND,google-chrome),the tests of the report in a browser,SSHTIMING_REQUIRE_BROWSER)

docker-tools:
	$(call NEED,What builds an image without Docker,buildah debootstrap docker-compose,$(call FOUND,buildah) && $(call FOUND,debootstrap) && $(call FOUND,docker-compose),the proof of docker/,SSHTIMING_REQUIRE_BUILDAH)

gnu-time:
	$(call NEED,GNU time,time,test -x /usr/bin/time,the comparison with another's figures,SSHTIMING_REQUIRE_TIME)
