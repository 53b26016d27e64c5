# PolyRank's command in an image: make package, then docker build -t polyrank .
# docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" polyrank run study.toml --out runs/study
# PyPI's torch for Linux brings CUDA; --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes one without.
FROM python:3.11-slim-bookworm

ARG PIP_EXTRA_INDEX_URL
COPY constraints.txt dist/polyrank-*.whl /tmp/polyrank/
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c /tmp/polyrank/constraints.txt /tmp/polyrank/*.whl \
  && rm -r /tmp/polyrank \
  && useradd --create-home --uid 1000 polyrank

# caches of a user without a home, as -u makes one, go where everyone may write
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["polyrank"]
CMD ["--help"]
