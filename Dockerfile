# ovbench on the CPU; the build ends with the quick tests. docs/install.md says how to use it with a GPU.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch torchvision --index-url $TORCH_INDEX
WORKDIR /ovbench
COPY . .
RUN pip install --no-cache-dir ".[test]"
RUN python -m pytest -q -n 2 -m "not slow"
ENTRYPOINT ["ovbench"]
