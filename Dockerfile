# curate in a container.   docker build -t curate .   docker run -v "$PWD:/work" -u "$(id -u)" curate prune --keep 0.8 …
#
# VARIANT=light (default)  every command but score, demo and what imports torch: for prune, check, diff, cat, serve
# VARIANT=gpu              everything, torch with CUDA (runs on a CPU, too): docker run --gpus all …
# VARIANT=cpu              everything, torch without CUDA; first make its lock: docker/lock.sh cpu
#
# Everything installed is pinned with hashes. Where pip finds it is told from outside (PIP_INDEX_URL and so on).
ARG PYTHON=3.11-slim

FROM python:${PYTHON} AS build
ARG VARIANT=light
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY docker/requirements-build.txt docker/requirements-${VARIANT}.txt ./
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements-build.txt
RUN python -m venv /opt/curate && /opt/curate/bin/pip install --require-hashes -r requirements-${VARIANT}.txt
COPY pyproject.toml README.md LICENSE ./
COPY curate ./curate
RUN /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels .
RUN /opt/curate/bin/pip install --no-deps --no-index /wheels/*.whl && /opt/curate/bin/pip uninstall --yes pip

FROM python:${PYTHON}
COPY --from=build /opt/curate /opt/curate
ENV PATH=/opt/curate/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /work
RUN chown 10001:10001 /work
USER 10001:10001
HEALTHCHECK --interval=5m --timeout=30s CMD ["curate", "doctor", "--no-torch"]
ENTRYPOINT ["curate"]
CMD ["--help"]
