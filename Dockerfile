# Scores and prunes in a container: docker run -v SHARDS:/data IMAGE score /data --out /data/scores
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY curate ./curate
RUN pip install --no-cache-dir . && rm -rf /src
WORKDIR /work
ENTRYPOINT ["curate"]
CMD ["--help"]
