"""Keys of instance-unique querying (the paper's sections 3.2, 3.3 and Tables 3 and 4)."""

from detectron2.config import CfgNode


def add_iuq_config(cfg: CfgNode) -> None:
    """Adds `MODEL.IUQ.*`; read by the meta-architectures whose name ends in IUQ, ignored by all others."""
    cfg.MODEL.IUQ = CfgNode()
    _add_inter(cfg.MODEL.IUQ)
    _add_memory(cfg.MODEL.IUQ)
    _add_equivariance(cfg.MODEL.IUQ)


def _add_inter(iuq: CfgNode) -> None:
    """The inter-scene loss: queries must not retrieve pixels of other images (Eq. 5)."""
    iuq.INTER = CfgNode()
    iuq.INTER.ENABLED = True  # Table 3, second row
    iuq.INTER.LOSS = "focal"  # "l1", "l2", "cross_entropy", "focal" (Table 4a)
    iuq.INTER.GAMMA = 2.5  # focal exponent (section 3.3)
    # Weight of a negative in the focal loss; every target here is a negative. The paper's alpha = 0.1 is 0.1 if it is meant
    # to weigh negatives, and 1 - 0.1 = 0.9 by the usual convention. Measured on trained states at 0.9, the gradient of the
    # term on the queries is 1.9 to 2.6 times that of the mask loss for CondInst, 23 for SOLOv2, 25 for SOTR, 0.12 to 0.17
    # for Mask2Former: 0.1 suits the first three, and Mask2Former's recipes say 0.9.
    iuq.INTER.NEG_WEIGHT = 0.1
    # "pixel": mean over all valid (query, pixel) pairs. "image": sum over the pixels of each foreign image, mean over
    # foreign images (the other reading of Eq. 5); a pixel of an image that was stored v times weighs 1 / v, so that each
    # image counts once. The value of "pixel" is small, its gradient is not (see NEG_WEIGHT); that of "image" is 40 to 200
    # times more and collapses a trained model at WEIGHT 1: divide WEIGHT by about 300.
    iuq.INTER.NORMALIZER = "pixel"
    iuq.INTER.WEIGHT = 1.0
    # No inter-scene loss before this iteration (the memory fills all the same); the weight then grows linearly over
    # RAMP_ITERS iterations. Below 0: the shares of SOLVER.MAX_ITER that follow.
    iuq.INTER.START_ITER = -1
    iuq.INTER.RAMP_ITERS = -1
    # Early the term opposes the mask gradient (CondInst: cosine -0.63 at a dice loss of 0.44, +0.60 at 0.29).
    iuq.INTER.START_SHARE = 0.05
    iuq.INTER.RAMP_SHARE = 0.05
    # Cap on the queries of the inter-scene loss, per rank, spread evenly over the instances; -1: all.
    iuq.INTER.MAX_QUERIES = -1
    # Match against so many stored pixels per step, drawn anew from all of them (uniformly, the same on every rank); their
    # sum is scaled up: an unbiased estimate of Eq. 5 whose cost does not grow with CAPACITY. The fire rates in the log are
    # then those of the sample. 0 or -1: all, as published.
    iuq.INTER.SAMPLE = -1
    # CondInst: where a memory pixel lies for a query's relative coordinates. "query": at its own position in the frame
    # of its image. "instance": as seen from its own instance, so that position does not give it away. It is much stronger:
    # 52 % of foreign pixels fire instead of 4.7 %, and the term's gradient is 24 times the mask loss's where "query" has
    # 1.9. It needs about a tenth of the WEIGHT.
    iuq.INTER.REL_COORDS = "query"
    # Bytes that one chunk of the query-pixel matrix may take; changes speed and memory, never the loss. 0: 16 MiB on the
    # CPU, 128 MiB on a GPU.
    iuq.INTER.CHUNK_BYTES = 0


def _add_memory(iuq: CfgNode) -> None:
    """The external memory of pixel embeddings and how it is fed (section 3.3, Tables 4b and 4c)."""
    iuq.MEMORY = CfgNode()
    # A pixel of D numbers takes 4 D + 16 bytes, in half precision 2 D + 16: a million of them 46 MiB for CondInst (D = 8),
    # 1 GiB for D = 256; with SHARD divided by the number of processes.
    iuq.MEMORY.CAPACITY = 100_000  # pixels; 0: the pixels of this batch only (Table 4c, "mini-batch")
    iuq.MEMORY.DTYPE = "float32"  # "float32", "float16", "bfloat16"
    iuq.MEMORY.SAMPLER = "instance"  # "instance" (balanced), "sparse", "dense" (Table 4b); background never enters
    iuq.MEMORY.PIXELS_PER_INSTANCE = 50  # of the "instance" sampler
    iuq.MEMORY.PIXELS_PER_IMAGE = 500  # of the "sparse" sampler
    # Beyond the paper's 100K, which its hardware allowed (section 3.3). False: every process holds the whole memory and
    # matches its own queries. True: it holds CAPACITY / processes pixels and matches the queries of all processes; losses
    # and gradients are the same up to rounding, and so is the time. A checkpoint holds the whole memory either way, so
    # that any number of processes can go on with it; the first process collects it in host memory.
    iuq.MEMORY.SHARD = False
    # Debugging: compare checksums of the memory over all processes at every so many-th write (also at the first one
    # after a start or a resume), and stop with the names of those that differ. 0: never. With SHARD, what all processes
    # share is a few counters.
    iuq.MEMORY.CHECK_PERIOD = 0


def _add_equivariance(iuq: CfgNode) -> None:
    """The equivariance loss on a cropped and flipped view of every image (Eq. 6 to 8, Table 4d)."""
    iuq.EQUI = CfgNode()
    iuq.EQUI.ENABLED = True  # Table 3, third row
    # "query": queries of g(I) on the warped features of I (Eq. 8). "feature": f(g(I)) and g(f(I)) agree (Eq. 6).
    # "augmentation": the views only join the base losses (Eq. 7).
    iuq.EQUI.TARGET = "query"
    iuq.EQUI.WEIGHT = 3.0  # lambda (Table 4e)
    # L_equi of Eq. 8 is the segmenter's mask loss: as weighted by the base for CondInst (1) and Mask2Former (5 and 5, see
    # MASK_FORMER), without the base's weight of 3 for SOLOv2 and SOTR. So lambda 3 means 3 : 1 beside the base's mask loss
    # in the first two and 1 : 1 in the others. True: L_equi is multiplied by the weight that it leaves out, and lambda
    # means the same for all.
    iuq.EQUI.RELATIVE_TO_BASE = False
    # "paired": IMS_PER_BATCH counts views, so half as many images an iteration. "extra": IMS_PER_BATCH images and as
    # many views on top of them.
    iuq.EQUI.VIEWS = "paired"
    # Under flips SOLOv2's absolute coordinates fight Eq. 8: its dice loss is 0.84 on a trained model, against 0.63 without.
    iuq.EQUI.FLIP_PROB = 0.5
    iuq.EQUI.CROP_MIN = 0.6  # width and height of the crop, as shares of the image's, are drawn independently
    iuq.EQUI.CROP_MAX = 1.0
