# The service in a container, from the wheel: `make image`, or `make wheel` and `docker build --tag anomalygpt .`
#   docker run --rm --volume parts:/parts --publish 8000:8000 --env ANOMALYGPT_API_KEY=secret anomalygpt --part bolt
FROM python:3.12-slim

COPY constraints.txt dist/anomalygpt-*.whl /install/
# PyTorch for the CPU alone, without gigabytes for GPUs; all versions are those with which the tests were run.
RUN cd /install \
 && pip install --no-cache-dir --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
      "torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu" \
 && pip install --no-cache-dir --constraint constraints.txt "$(ls ./anomalygpt-*.whl)[line]" \
 && useradd --uid 10001 --create-home inspector \
 && mkdir /parts \
 && chown inspector /parts

# A number, by which an orchestrator sees that it is not root.
USER 10001
ENV ANOMALYGPT_PARTS=/parts
VOLUME /parts
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Other machines are let in with a key only: without ANOMALYGPT_API_KEY it refuses to start.
ENTRYPOINT ["anomalygpt", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--part", "auto"]
