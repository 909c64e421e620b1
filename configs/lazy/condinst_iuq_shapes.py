"""A small CondInst with instance-unique querying on the rendered "shapes" scenes: a CPU trains it while one watches.

python tools/lazy_train_net.py --config-file configs/lazy/condinst_iuq_shapes.py

Sizes and schedule follow configs/quickstart.yaml; a LazyConfig file is the difference to the one that it imports.
"""

from .condinst_iuq import dataloader, lr_multiplier, model, optimizer, train

# A ResNet-18 from random weights: nothing frozen, BatchNorm that learns, a box regression that starts alive.
bottom_up = model.backbone.bottom_up
bottom_up.stem.norm = bottom_up.stages.norm = "BN"
bottom_up.stages.depth = 18
del bottom_up.stages.stride_in_1x1  # its blocks have no 1x1 convolution
bottom_up.freeze_at = 0
model.backbone.out_channels = 128
model.proposal_generator.fcos_head.num_convs = (0, 2, 2)
model.proposal_generator.fcos_head.bbox_bias_init = 1.0
model.proposal_generator.sizes_of_interest = [32, 64, 128, 256]
model.proposal_generator.num_classes = 5
model.mask_branch.num_convs = 2
model.criterion.memory.capacity = 10_000
model.criterion.inter.start_iter = 210
model.criterion.inter.ramp_iters = 140

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations[0].short_edge_length = (160,)
dataloader.train.mapper.augmentations[0].sample_style = "choice"
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 1
dataloader.test.dataset.names = "shapes_val"
dataloader.test.mapper.augmentations[0].short_edge_length = 160
dataloader.test.num_workers = 1

optimizer.lr = 0.02
lr_multiplier.warmup_iters = 100
train.update(
    output_dir="output/lazy_condinst_iuq_shapes",
    init_checkpoint="",
    max_iter=700,
    eval_period=0,
    seed=1,
    device="cpu",
)
