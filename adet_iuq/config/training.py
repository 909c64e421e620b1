"""Keys of the data, of the training loop, of evaluations and of the timm bridge."""

from detectron2.config import CfgNode


def add_data_config(cfg: CfgNode) -> None:
    """Adds `DATASETS.*` and `INPUT.*` keys."""
    # Data of your own: a list of [name, json file, image folder], whose names serve in DATASETS.TRAIN and DATASETS.TEST,
    # and of [name, folder] (or "folder", which names it), in which name_train, name_val and name_test are found. Paths may
    # name environment variables, "$ADET_IUQ_DATA/nuclei/train.json"; they are expanded at registration.
    cfg.DATASETS.REGISTER = []
    # Look for broken annotations and missing images before training; the verdict is cached.
    cfg.DATASETS.CHECK = True

    # The embedded scenes `shapes_train` and `shapes_val`.
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

    # What becomes of images with one channel of 16 or 32-bit integers or floats, everywhere (data/images/deep.py). "dtype":
    # the range of the type, 0 to 1 for floats, is scaled to 8 bits; "image": each image's own range; "refuse": an error.
    cfg.INPUT.DEEP_IMAGES = "dtype"

    # Mask2Former's names. "": crop, resize, flip by the keys above; "coco_instance_lsj", "coco_panoptic_lsj": large-scale
    # jitter by the keys below and RANDOM_FLIP ("horizontal", "vertical", "none").
    cfg.INPUT.DATASET_MAPPER_NAME = ""
    cfg.INPUT.IMAGE_SIZE = 1024  # side of the square frame, pixels
    cfg.INPUT.MIN_SCALE = 0.1  # the image's long side fits the frame times a factor from this ...
    cfg.INPUT.MAX_SCALE = 2.0  # ... to this one


def add_training_config(cfg: CfgNode) -> None:
    """Adds `SOLVER.*`, `DIST.*` and `GUARD.*` keys."""
    # The most images (views, where they are paired) that a process takes at once; when its share of IMS_PER_BATCH is more,
    # a step accumulates the gradients of several micro-batches. 0: no limit. Published recipes: what they had on a GPU.
    cfg.SOLVER.IMS_PER_PROCESS = 0
    # Mask2Former's names. Its recipes: "ADAMW", 0.1, and CLIP_GRADIENTS.CLIP_TYPE "full_model" besides detectron2's
    # "value" and "norm" of each parameter.
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # times BASE_LR, in the backbone
    # More such factors: a list of [part of a module's name, factor], for example [["sampling_offsets", 0.1]].
    cfg.SOLVER.LR_MULTIPLIERS = []
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # of nn.Embedding
    # Polynomial schedule (paper section 4.1), LR_SCHEDULER_NAME "WarmupPolyLR":
    # lr(t) = base * max((1 - t / MAX_ITER) ** power, ending) after the warm-up. Keys of detectron2's DeepLab project.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    # Read when SOLVER.AMP.ENABLED: "float16" (with a gradient scaler, CUDA only), "bfloat16" (CUDA and CPU), or "auto":
    # bfloat16 on GPUs and CPUs that compute with it (CPUs: AVX-512 BF16 or AMX), float16 on other GPUs, else float32.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # The metric whose best checkpoint is kept as model_best.pth; empty: none.
    cfg.SOLVER.BEST_CHECKPOINT = CfgNode()
    cfg.SOLVER.BEST_CHECKPOINT.METRIC = "segm/AP"

    cfg.DIST = CfgNode()
    # How long a process waits for the others, at the start and in every exchange, before it gives up. Longer than the main
    # process needs to evaluate what all have predicted.
    cfg.DIST.TIMEOUT_MINUTES = 30.0

    cfg.GUARD = CfgNode()
    # Warn when for so many steps the mask loss stood where it is without any mask and no query fired anywhere; 0: never.
    cfg.GUARD.COLLAPSE_ITERS = 100
    # Every so many iterations the log of an IUQ model gets `iuq/gradient_ratio`, the norm of the gradient of the weighted
    # inter-scene loss over that of the base's mask loss, both on the query embeddings, and `iuq/gradient_cosine` between
    # them: the strength of the term, which its value does not tell. It costs part of a backward pass. 0: never.
    cfg.GUARD.GRADIENT_RATIO_PERIOD = 0
    # How many unreadable images a data worker may replace by others before it stops.
    cfg.GUARD.SKIP_CORRUPT_IMAGES = 0


def add_test_config(cfg: CfgNode) -> None:
    """Adds `TEST.*` keys: what an evaluation measures besides the metrics of its data sets."""
    # Mosaics of each COCO-type set in DATASETS.TEST: 2 x 2 images in one, evaluated as `<name>_mosaic` at twice the test
    # size, with four times the detections: AP, and how much masks leak into other images (evaluation/mosaic.py).
    cfg.TEST.MOSAIC = CfgNode()
    cfg.TEST.MOSAIC.ENABLED = False
    cfg.TEST.MOSAIC.SEED = 0  # decides which images meet
    cfg.TEST.MOSAIC.SCORE = 0.3  # detections count for the leak rate from this score on
    # What the terms of instance-unique querying are about, on images of each COCO-type set in DATASETS.TEST: how often
    # queries fire on pixels of other images, and how equivariant masks and features are (evaluation/queries.py).
    cfg.TEST.QUERY_PROBE = CfgNode()
    cfg.TEST.QUERY_PROBE.ENABLED = False
    cfg.TEST.QUERY_PROBE.IMAGES = 32  # drawn from the set's; all, where it has fewer
    cfg.TEST.QUERY_PROBE.SEED = 0  # of that draw, of the pixels and of the views


def add_report_config(cfg: CfgNode) -> None:
    """Adds `REPORT.*` keys: the page about a run (docs/report.md). They change nothing that a run computes."""
    cfg.REPORT = CfgNode()
    # OUTPUT_DIR/report.html after every evaluation, written by a process of its own at the lowest priority.
    cfg.REPORT.ENABLED = True
    cfg.REPORT.LABEL_GRID = 16  # training images in OUTPUT_DIR/label_grid.jpg, at the start of a run; 0: none
    cfg.REPORT.WORST = 16  # pictures of each test set, the worst ones; 0: none


def add_normalizer_config(cfg: CfgNode) -> None:
    """Adds `MODEL.REDUCE_NORMALIZER`, read by all segmenters and by both terms of instance-unique querying."""
    # A loss is a sum over queries, cells or pixels by their number. False, as published: their number on this process
    # (but for those that the published code reduces), so that what an item weighs depends on what else its process holds.
    # True: their mean number over all processes; losses and gradients are then those of one process with the same global
    # batch, but for what sees one process's share only: BatchNorm, MODEL.CONDINST.MAX_PROPOSALS,
    # MODEL.IUQ.INTER.MAX_QUERIES, the padding of a batch, Mask2Former's random points.
    cfg.MODEL.REDUCE_NORMALIZER = False


def add_timm_config(cfg: CfgNode) -> None:
    """Adds `MODEL.TIMM.*`, read by the `build_timm_backbone` builders."""
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "resnet50"  # any timm model that supports features_only
    cfg.MODEL.TIMM.PRETRAINED = False  # timm's own weights; MODEL.WEIGHTS, where given, is loaded over them
    cfg.MODEL.TIMM.FREEZE_AT = 0  # 0: nothing, 1: the stem, 2: also "res2" ... 5: all of it
    cfg.MODEL.TIMM.NORM_FROZEN = False  # True: BatchNorm layers keep statistics and weights
    cfg.MODEL.TIMM.CHECKPOINTING = False  # trade compute for activation memory
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
