# adet_iuq and its commands, for CPUs:
#   docker build -t adet-iuq:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" adet-iuq:cpu train --config-file quickstart.yaml
# and for NVIDIA GPUs, whose driver and container toolkit the host brings (PyPI's torch for Linux brings CUDA's libraries):
#   docker build -t adet-iuq:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" -v /data:/data -e DETECTRON2_DATASETS=/data adet-iuq:cuda \
#     train --config-file CondInst/R50_1x_iuq.yaml --num-gpus 8
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/adet_iuq
RUN pip install torch==2.14.1 torchvision==0.29.1 --index-url "${TORCH_INDEX}"
COPY tools/install_detectron2.py tools/detectron2_repairs.py tools/
RUN python tools/install_detectron2.py
COPY pyproject.toml setup.py README.md LICENSE ./
COPY adet_iuq adet_iuq
COPY configs configs
COPY projects projects
# The slim image has no libGL, so the headless OpenCV takes the other one's place. lvis would ask for that one again.
# hadolint ignore=DL3013
RUN pip install ".[pretrained]" \
    && pip uninstall --yes opencv-python \
    && pip install opencv-python-headless==5.0.0.93 \
    && pip install --no-deps lvis==0.5.3
RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["adet-iuq"]
