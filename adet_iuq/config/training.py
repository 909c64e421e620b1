"""Keys of the data, of the training loop, of evaluations and of the timm bridge."""

from detectron2.config import CfgNode


def add_data_config(cfg: CfgNode) -> None:
    """Adds `DATASETS.*` and `INPUT.*` keys."""
    # A user's own data: a list of [name, json file, image folder], whose names are used in DATASETS.TRAIN and
    # DATASETS.TEST, and of [name, folder] (or "folder", which is then the name), in which name_train, name_val and
    # name_test are found. Paths may contain environment variables, "$ADET_IUQ_DATA/nuclei/train.json", which are
    # expanded at registration.
    cfg.DATASETS.REGISTER = []
    # Whether broken annotations and missing images are looked for before training; the verdict is cached.
    cfg.DATASETS.CHECK = True

    # The rendered scenes `shapes_train` and `shapes_val`.
    cfg.DATASETS.SHAPES = CfgNode()
    cfg.DATASETS.SHAPES.ROOT = ""  # cache folder; empty: $ADET_IUQ_CACHE, else ~/.cache/adet_iuq
    # "mixed": five classes, all sizes. "crowded": one class, 20 to 40 near-identical touching instances an image.
    cfg.DATASETS.SHAPES.PRESET = "mixed"
    cfg.DATASETS.SHAPES.SIZE = 192  # side of the square images, pixels
    cfg.DATASETS.SHAPES.NUM_TRAIN = 200
    cfg.DATASETS.SHAPES.NUM_VAL = 50
    cfg.DATASETS.SHAPES.SEED = 0

    # AdelaiDet's augmentation keys (INPUT.RANDOM_FLIP is not read by the published mapper).
    cfg.INPUT.HFLIP_TRAIN = True
    cfg.INPUT.CROP.CROP_INSTANCE = True  # False: the crop grows until it cuts no box
    cfg.INPUT.IS_ROTATE = False  # rotation by up to 30 degrees either way, only together with the crop

    # How images with one channel of 16 or 32-bit integers or floats are read everywhere (data/images/deep.py). "dtype": the
    # range of the type (for floats 0 to 1) is scaled to 8 bits; "image": each image's own range; "refuse": an error.
    cfg.INPUT.DEEP_IMAGES = "dtype"

    # Mask2Former's names. "": crop, resize and flip by the keys above; "coco_instance_lsj", "coco_panoptic_lsj":
    # large-scale jitter by the keys below and RANDOM_FLIP ("horizontal", "vertical", "none").
    cfg.INPUT.DATASET_MAPPER_NAME = ""
    cfg.INPUT.IMAGE_SIZE = 1024  # side of the square frame, pixels
    cfg.INPUT.MIN_SCALE = 0.1  # the image's long side fits the frame times a factor from this ...
    cfg.INPUT.MAX_SCALE = 2.0  # ... to this one


def add_training_config(cfg: CfgNode) -> None:
    """Adds `SOLVER.*`, `DIST.*` and `GUARD.*` keys."""
    # The most images (views, if they are paired) that a process takes at once. If its share of IMS_PER_BATCH is larger,
    # a step accumulates the gradients of several micro-batches. 0: no limit. Published recipes: their number per GPU.
    cfg.SOLVER.IMS_PER_PROCESS = 0
    # Mask2Former's names. Its recipes have "ADAMW", 0.1, and CLIP_GRADIENTS.CLIP_TYPE "full_model"; detectron2's own
    # types, "value" and "norm", clip parameter by parameter.
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # factor of BASE_LR in the backbone
    # Further factors: a list of [part of a module's name, factor], for example [["sampling_offsets", 0.1]].
    cfg.SOLVER.LR_MULTIPLIERS = []
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # weight decay of nn.Embedding
    # Polynomial schedule (paper section 4.1), LR_SCHEDULER_NAME "WarmupPolyLR":
    # lr(t) = base * max((1 - t / MAX_ITER) ** power, ending) after the warm-up. Keys of detectron2's DeepLab project.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    # Read if SOLVER.AMP.ENABLED: "float16" (with a gradient scaler, CUDA only), "bfloat16" (CUDA and CPU), or "auto":
    # bfloat16 on GPUs and CPUs that compute with it (CPUs: AVX-512 BF16 or AMX), float16 on other GPUs, else float32.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # The metric whose best checkpoint is kept as model_best.pth; empty: none is kept.
    cfg.SOLVER.BEST_CHECKPOINT = CfgNode()
    cfg.SOLVER.BEST_CHECKPOINT.METRIC = "segm/AP"

    cfg.DIST = CfgNode()
    # How long a process waits for the others, at the start and in every exchange, before it gives up. It must be longer
    # than the main process needs to evaluate the predictions of all processes.
    cfg.DIST.TIMEOUT_MINUTES = 30.0

    cfg.GUARD = CfgNode()
    # The number of steps with the mask loss of empty masks and without any firing query that leads to a warning; 0: never.
    cfg.GUARD.COLLAPSE_ITERS = 100
    # The number of iterations between two entries in the log of an IUQ model of `iuq/gradient_ratio`, the norm of the
    # gradient of the weighted inter-scene loss over that of the base's mask loss, both on the query embeddings, and
    # `iuq/gradient_cosine` between them. They show the term's strength, which its value does not. 0: never. Each costs
    # part of a backward pass.
    cfg.GUARD.GRADIENT_RATIO_PERIOD = 0
    # The number of unreadable images that a data worker may replace by others before it stops.
    cfg.GUARD.SKIP_CORRUPT_IMAGES = 0


def add_test_config(cfg: CfgNode) -> None:
    """Adds `TEST.*` keys: how an evaluation compares, and what it measures besides the metrics of its data sets."""
    # The package that computes COCO's metrics (evaluation/backends.py). "pycocotools": the reference, whose numbers are the
    # ones to report. "faster-coco-eval", "hotcoco": the same numbers sooner, from packages of these names.
    cfg.TEST.EVAL_BACKEND = "pycocotools"
    # Mosaics of each COCO-type set in DATASETS.TEST: 2 x 2 images in one, evaluated as `<name>_mosaic` at twice the test
    # size with four times the detections. They give AP, and how much masks leak into other images
    # (evaluation/mosaic.py).
    cfg.TEST.MOSAIC = CfgNode()
    cfg.TEST.MOSAIC.ENABLED = False
    cfg.TEST.MOSAIC.SEED = 0  # determines which images are combined
    cfg.TEST.MOSAIC.SCORE = 0.3  # lowest score of detections that count for the leak rate
    # Measures the aims of instance-unique querying on images of each COCO-type set in DATASETS.TEST: how often queries
    # fire on pixels of other images, and how equivariant masks and features are (evaluation/queries.py).
    cfg.TEST.QUERY_PROBE = CfgNode()
    cfg.TEST.QUERY_PROBE.ENABLED = False
    cfg.TEST.QUERY_PROBE.IMAGES = 32  # number of images drawn from the set; all, if it has fewer
    cfg.TEST.QUERY_PROBE.SEED = 0  # seed of that draw, of the pixels and of the views


def add_report_config(cfg: CfgNode) -> None:
    """Adds `REPORT.*` keys: the page about a run (docs/report.md). They do not change what a run computes."""
    cfg.REPORT = CfgNode()
    # Whether OUTPUT_DIR/report.html is written after every evaluation, by a process of its own at the lowest priority.
    cfg.REPORT.ENABLED = True
    cfg.REPORT.LABEL_GRID = 16  # training images in OUTPUT_DIR/label_grid.jpg, at the start of a run; 0: none
    cfg.REPORT.WORST = 16  # pictures of each test set that show its worst results; 0: none


def add_normalizer_config(cfg: CfgNode) -> None:
    """Adds `MODEL.REDUCE_NORMALIZER`, which all segmenters and both terms of instance-unique querying read."""
    # A loss is a sum over queries, cells or pixels, divided by their number. False, as published: their number on this
    # process (except where the published code reduces it), so the weight of an item depends on what else its process
    # holds. True: their mean number over all processes. Losses and gradients then equal those of one process with the
    # same global batch, except for parts that see one process's share only: BatchNorm, MODEL.CONDINST.MAX_PROPOSALS,
    # MODEL.IUQ.INTER.MAX_QUERIES, the padding of a batch, Mask2Former's random points.
    cfg.MODEL.REDUCE_NORMALIZER = False


def add_timm_config(cfg: CfgNode) -> None:
    """Adds `MODEL.TIMM.*`, which the `build_timm_backbone` builders read."""
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "resnet50"  # any timm model that supports features_only
    cfg.MODEL.TIMM.PRETRAINED = False  # True: timm's own weights; MODEL.WEIGHTS, if given, is loaded over them
    cfg.MODEL.TIMM.FREEZE_AT = 0  # 0: nothing, 1: the stem, 2: also "res2" ... 5: all of it
    cfg.MODEL.TIMM.NORM_FROZEN = False  # True: BatchNorm layers keep statistics and weights
    cfg.MODEL.TIMM.CHECKPOINTING = False  # True: recomputes activations in the backward pass, which saves memory
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
