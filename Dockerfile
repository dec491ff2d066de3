# The one image of docker-compose.yaml: the lock, and what lies in this repository.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/retrain
ENV AIRFLOW_HOME=/opt/airflow \
    PYTHONPATH=/opt/retrain/include:/opt/retrain/config \
    PYTHONUNBUFFERED=1

# The lock first: a change to the code does not install anything again.
COPY requirements.txt ./
COPY bin/uv.txt bin/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement bin/uv.txt \
    && uv pip install --system --no-cache --require-hashes --compile-bytecode --requirement requirements.txt

COPY bin/cluster.py bin/
COPY config config
COPY plugins plugins
COPY include include
COPY dags dags

# Nobody in a container can change the code; a new volume takes its owner from /retrain.
RUN python -m compileall -q bin config plugins include dags \
    && useradd --uid 50000 --no-create-home --home-dir /opt/airflow retrain \
    && install --directory --owner=retrain --group=retrain /opt/airflow /retrain
USER retrain
