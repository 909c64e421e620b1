# adet_iuq and its commands, for a CPU or for NVIDIA GPUs (whose driver and container toolkit the host brings):
#   docker build -t adet-iuq:cpu .
#   docker build -t adet-iuq:cuda --build-arg DEVICE=cuda .
#   docker run --rm -v "$PWD:/work" adet-iuq:cpu train --config-file quickstart.yaml
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" -v /data:/data -e DETECTRON2_DATASETS=/data adet-iuq:cuda \
#     train --config-file CondInst/R50_1x_iuq.yaml --num-gpus 8
ARG DEVICE=cpu

FROM python:3.11-slim AS python
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/adet_iuq

FROM python AS torch-cpu
RUN pip install torch==2.14.1 torchvision==0.29.1 --index-url https://download.pytorch.org/whl/cpu

# PyPI's torch for Linux brings CUDA's libraries with it.
FROM python AS torch-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install torch==2.14.1 torchvision==0.29.1

# hadolint ignore=DL3006
FROM torch-${DEVICE}
COPY tools/install_detectron2.py tools/detectron2_repairs.py tools/
RUN python tools/install_detectron2.py
COPY pyproject.toml setup.py README.md LICENSE ./
COPY adet_iuq adet_iuq
COPY configs configs
COPY projects projects
# The slim image has no libGL, so the headless OpenCV takes the other one's place. lvis would ask for that one again.
RUN pip install ".[pretrained]" \
    && pip uninstall --yes opencv-python \
    && pip install opencv-python-headless==5.0.0.93 \
    && pip install --no-deps lvis==0.5.3
RUN useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["adet-iuq"]
