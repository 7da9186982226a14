# The service in an image: `docker compose up`, or
# `docker build -t hero-api . && docker run -p 127.0.0.1:8000:8000 -v heroes:/data hero-api`.

FROM python:3.11-slim AS build
# Without pip in it, the environment holds only what serves.
RUN python -m venv --without-pip /opt/hero-api
WORKDIR /source
COPY pyproject.toml README.md ./
COPY hero_api ./hero_api
RUN pip --python /opt/hero-api/bin/python install --no-cache-dir --root-user-action=ignore \
    '.[postgresql]'

FROM python:3.11-slim
COPY --from=build /opt/hero-api /opt/hero-api
# A new volume takes this directory's owner; a directory of the host that is mounted there instead
# must be writable for the same user.
RUN install --directory --owner=10001 --group=10001 /data
VOLUME /data
# A number, so that Kubernetes' runAsNonRoot can see that it is not root's.
USER 10001:10001
ENV PATH=/opt/hero-api/bin:$PATH \
    HERO_API_DATABASE_URL=sqlite:////data/heroes.db
EXPOSE 8000
# No shell in between: SIGTERM reaches the server, which then ends with status 0.
ENTRYPOINT ["hero-api"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
# http.client, since urllib would ask a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
