# One image for the code location, Dagster's webserver and daemon, the API and the command line; docker-compose.yml says which is which.

FROM python:3.12.13-slim-bookworm AS build
WORKDIR /app
ENV VIRTUAL_ENV=/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never

COPY scripts/uv.lock scripts/
RUN python -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --require-hashes --no-deps -r scripts/uv.lock

# Of the lock, what a container needs: no local servers, nothing of development.
# TORCH_INDEX: empty takes torch as it is locked, with CUDA's libraries. The address of an index that has the same version without
# them makes the image smaller by gigabytes; that wheel is another one, so torch, and nothing else, then comes without a hash.
COPY pyproject.toml requirements.lock ./
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/root/.cache/uv \
    if [ -n "$TORCH_INDEX" ]; then \
        uv pip install --no-deps --index-url "$TORCH_INDEX" "$(grep -o '^torch==[^ ]*' requirements.lock)"; \
    else \
        export UV_REQUIRE_HASHES=1; \
    fi \
    && uv pip install --constraints requirements.lock --requirements pyproject.toml --extra model --extra postgresql --extra tracing

COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --build-constraints requirements.lock --editable . \
    && python -m compileall -q .


FROM python:3.12.13-slim-bookworm
# the first user of most machines: who runs this owns the folders that are mounted, and so may erase people from the files in them
RUN useradd --uid 1000 --home-dir /var/lib/persona --no-create-home --shell /usr/sbin/nologin persona \
    && install --directory --owner=persona --group=persona --mode=0750 /var/lib/persona
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH PERSONA_HOME=/var/lib/persona PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE 8000
ENTRYPOINT ["persona"]
CMD ["--help"]
