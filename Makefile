# `make edgevit_s` exports the model; `make test` passes the tests. Both set everything up first.
PYTHON ?= python3

.PHONY: edgevit_s test device-test lab-test docs lint benchmark compatibility

edgevit_s: .venv/ready
	.venv/bin/deploykit export edgevit_s --target torchscript-lite --force

test: .venv/targets lint
	.venv/bin/pytest --numprocesses 2 --dist loadgroup

# The tests of devices and native runners, the slow ones too, with the system packages that they use.
DEVICE_TESTS = tests/devices tests/android_app tests/benchmarks/test_native.py tests/benchmarks/test_trtexec.py

device-test: .venv/targets
	scripts/device_tools.sh
	.venv/bin/pytest --numprocesses 2 --dist loadgroup -m "slow or not slow" $(DEVICE_TESTS)

# The tests of checks, sweeps, reports and documentation, the slow ones too, with the system packages that they use.
LAB_TESTS = tests/cells tests/check tests/sweep tests/report tests/docs tests/test_readme.py tests/test_action.py \
	tests/test_workflows.py tests/test_pytest_plugin.py tests/cli/test_check.py tests/cli/test_sweep.py \
	tests/cli/test_report.py tests/cli/test_init.py

lab-test: .venv/lab
	scripts/lab_tools.sh
	.venv/bin/pytest --numprocesses 2 --dist loadgroup -m "slow or not slow" $(LAB_TESTS)

docs: .venv/lab
	.venv/bin/sphinx-build --fail-on-warning --keep-going --builder html docs build/docs

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	scripts/typecheck.sh

benchmark: .venv/targets
	.venv/bin/python -m deploy_kit.benchmarks.suites.stock --results stock.json

compatibility: .venv/targets
	.venv/bin/python -m deploy_kit.benchmarks.suites.compatibility --check --jobs 2 --budget 700 --limit 900

# The optional targets, so that their tests run; without one of them they skip, and say why.
.venv/targets: .venv/ready
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,all]' \
		|| echo "note: some optional targets cannot be installed here; their tests skip" >&2
	touch $@

.venv/lab: .venv/targets
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,all,lab,docs]' \
		|| echo "note: Ray, PostgreSQL's driver or Sphinx cannot be installed here; their tests skip" >&2
	touch $@

.venv/ready: pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) scripts/setup.sh
