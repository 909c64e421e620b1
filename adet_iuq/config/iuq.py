"""Keys of instance-unique querying (the paper's sections 3.2, 3.3 and Tables 3 and 4)."""

from detectron2.config import CfgNode


def add_iuq_config(cfg: CfgNode) -> None:
    """Adds `MODEL.IUQ.*`, which the meta-architectures whose name ends in IUQ read and all others ignore."""
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
    # Weight of a negative in the focal loss; every target here is a negative. The paper's alpha = 0.1 means 0.1 here if
    # it weighs negatives, and 1 - 0.1 = 0.9 by the usual convention. At 0.9 the gradient of the term on the queries is a
    # third of the mask loss's in the studies of CondInst, which lost 3 AP, and of Mask2Former; 0.1 was better for both
    # (docs/results_strength.md). On single trained states it was 1.9 to 2.6 times the mask loss's for CondInst, 23 for
    # SOLOv2, 25 for SOTR, 0.12 to 0.17 for Mask2Former.
    iuq.INTER.NEG_WEIGHT = 0.1
    # "pixel": mean over all valid (query, pixel) pairs. "image": sum over the pixels of each foreign image, mean over
    # foreign images (the other reading of Eq. 5); a pixel of an image that was stored v times weighs 1 / v, so that each
    # image counts once. The value of "pixel" is small, but its gradient is not (see NEG_WEIGHT). "image" gives 40 to
    # 200 times more and collapses a trained model at WEIGHT 1: divide WEIGHT by about 300.
    iuq.INTER.NORMALIZER = "pixel"
    iuq.INTER.WEIGHT = 1.0
    # Before this iteration there is no inter-scene loss, though the memory fills; then the weight grows linearly over
    # RAMP_ITERS iterations. Negative values are replaced by the following shares of SOLVER.MAX_ITER.
    iuq.INTER.START_ITER = -1
    iuq.INTER.RAMP_ITERS = -1
    # Early the term may oppose the mask gradient (CondInst from random weights: cosine -0.63 at a dice loss of 0.44,
    # +0.60 at 0.29). From ImageNet weights a start at 5 or at 20 % gave the same AP (docs/results_strength.md).
    iuq.INTER.START_SHARE = 0.05
    iuq.INTER.RAMP_SHARE = 0.05
    # The most queries per rank in the inter-scene loss, spread evenly over the instances; -1: all.
    iuq.INTER.MAX_QUERIES = -1
    # The number of stored pixels that each step draws anew from all of them (uniformly, the same on every rank) and
    # compares with the queries. Their sum is scaled up: an unbiased estimate of Eq. 5 whose cost does not grow with
    # CAPACITY. The fire rates in the log then describe the sample. 0 or -1: all pixels, as published.
    iuq.INTER.SAMPLE = -1
    # CondInst: the position of a memory pixel in a query's relative coordinates. "query": its own position in the frame
    # of its image. "instance": its position relative to its own instance, so that position does not give it away. This
    # is much stronger: 52 % of foreign pixels fire instead of 4.7 %, and the term's gradient is 24 times the mask
    # loss's instead of 1.9 times. At a tenth of the WEIGHT it still cost 1.6 AP (docs/results_strength.md).
    iuq.INTER.REL_COORDS = "query"
    # Bytes that one chunk of the query-pixel matrix may take. It changes speed and memory, never the loss. 0: 16 MiB on
    # the CPU, 128 MiB on a GPU.
    iuq.INTER.CHUNK_BYTES = 0


def _add_memory(iuq: CfgNode) -> None:
    """The external memory of pixel embeddings and how it is fed (section 3.3, Tables 4b and 4c)."""
    iuq.MEMORY = CfgNode()
    # A pixel of D numbers takes 4 D + 16 bytes, in half precision 2 D + 16. A million pixels take 46 MiB for CondInst
    # (D = 8) and 1 GiB for D = 256. With SHARD the size is divided by the number of processes.
    iuq.MEMORY.CAPACITY = 100_000  # pixels; 0: the pixels of this batch only (Table 4c, "mini-batch")
    # False: the queries of a step meet only pixels of earlier iterations, not those of the other images of their batch.
    # Then CAPACITY must be above 0.
    iuq.MEMORY.OWN_BATCH = True
    iuq.MEMORY.DTYPE = "float32"  # "float32", "float16", "bfloat16"
    iuq.MEMORY.SAMPLER = "instance"  # "instance" (balanced), "sparse", "dense" (Table 4b); background never enters
    iuq.MEMORY.PIXELS_PER_INSTANCE = 50  # for the "instance" sampler
    iuq.MEMORY.PIXELS_PER_IMAGE = 500  # for the "sparse" sampler
    # Allows more than the paper's 100K, which were its hardware's limit (section 3.3). False: every process holds the
    # whole memory and compares its own queries. True: it holds CAPACITY / processes pixels and compares the queries of
    # all processes; losses and gradients are the same up to rounding, and so is the time. A checkpoint holds the whole
    # memory either way, so any number of processes can continue with it; the first process collects it in host memory.
    iuq.MEMORY.SHARD = False
    # For debugging: the number of writes between two comparisons of the memory's checksums over all processes (one
    # follows the first write after a start or a resume, too). A difference stops the run with the names of what
    # differs. 0: never. With SHARD the processes share only a few counters.
    iuq.MEMORY.CHECK_PERIOD = 0


def _add_equivariance(iuq: CfgNode) -> None:
    """The equivariance loss on a cropped and flipped view of every image (Eq. 6 to 8, Table 4d)."""
    iuq.EQUI = CfgNode()
    # Table 3, third row. On embryos it helped CondInst (in 1,600 steps not clearly more than its views), and cost SOLOv2
    # 34 AP, SOTR 19 and Mask2Former 7 (docs/results_embryos.md, docs/results_segmenters.md). docs/settings.md says what
    # to try first.
    iuq.EQUI.ENABLED = True
    # "query": queries of g(I) on the warped features of I (Eq. 8). "feature": f(g(I)) and g(f(I)) agree (Eq. 6).
    # "augmentation": the views only join the base losses (Eq. 7).
    iuq.EQUI.TARGET = "query"
    # Lambda. The paper's is 3 (Table 4e), as in its recipes here. 1 was better by 1.9 AP on embryos, in seven seeds of
    # eight (docs/results_table4.md).
    iuq.EQUI.WEIGHT = 1.0
    # L_equi of Eq. 8 is the segmenter's mask loss. For CondInst (1) and Mask2Former (5 and 5, see MASK_FORMER) it has
    # the base's weight, for SOLOv2 and SOTR it lacks the base's weight of 3. True: L_equi is multiplied by the weight
    # that it lacks, and lambda 1 means 1 : 1 beside the base's mask loss for all. False: lambda 3 means 3 : 1 beside
    # the base's mask loss in the first two and 1 : 1 in the others.
    iuq.EQUI.RELATIVE_TO_BASE = True
    # "paired": IMS_PER_BATCH counts views, so an iteration reads half as many images. "extra": IMS_PER_BATCH counts
    # images, and as many views are added.
    iuq.EQUI.VIEWS = "paired"
    # A map that knows places, such as SOLOv2's, may not follow a flip (docs/results_segmenters.md).
    iuq.EQUI.FLIP_PROB = 0.5
    iuq.EQUI.CROP_MIN = 0.6  # width and height of the crop, as shares of the image's, are drawn independently
    iuq.EQUI.CROP_MAX = 1.0
