# Shortcuts: each command works without make too.
DOCKER ?= docker
BASE ?= python:3.13-slim
.PHONY: help build images run test lint bench pictures clean
help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | column -t -s '|'
build: ## build the single image
	$(DOCKER) build -t appcoup --build-arg BASE=$(BASE) .
images: ## build an image of each program
	for program in generator echo; do $(DOCKER) build -t appcoup-$$program:1 --build-arg BASE=$(BASE) $$program || exit; done
run: ## run both programs here; Ctrl-C stops them
	./app.sh
test: ## check style and types, and run all tests
	tests/run
lint: ## check style and types alone
	tests/run --collect-only --quiet --quiet
bench: ## measure a container's life, beside its peers
	bench/run lifecycle
pictures: ## draw the pictures of the couplings
	python3 scripts/pictures.py
clean: ## remove what runs and tests leave here
	rm -rf .venv .run .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis data data.*
