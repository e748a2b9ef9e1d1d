# Runs any command of the project:
#   docker build -t th-fuse-sam .
#   docker run --gpus all --rm -v "$PWD/data:/data" th-fuse-sam python finetune.py --data_dir /data/mine --output_dir /data/runs
FROM nvidia/cuda:12.6.3-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH" PIP_NO_CACHE_DIR=1

WORKDIR /app
COPY . .
RUN pip install --editable ".[finetune,lora,tensorboard]"

# Downloaded checkpoints and embeddings; mount a volume here to keep them.
ENV SAM_CACHE=/cache
VOLUME /cache

CMD ["python", "precompute_masks.py", "--help"]
