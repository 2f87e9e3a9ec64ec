"""Keys of published option files, and what becomes of each; see `option_files`.

"*" stands for the key of any data set; keys of which the same is said stand in one line, spaces between them.
"""

from typing import Any

FLOW = ("network_G", "flow")
# Keys that keep their meaning under another name.
MOVED = {
    "model_path": "path.model_path",
    "std": "model.noise_max",
    "heat": "val.heats",
    "dataroot_GT": "datasets.test.dataroot_GT",
    "dataroot_LR dataroot_LQ": "datasets.test.dataroot_LQ",
}
# Keys without effect, and what is done instead.
DROPPED = {
    "use_tb_logger": "TensorBoard is always written",
    "distortion": "model and scale say it",
    "gpu_ids": "device chooses: auto, cpu, cuda:N",
    "lr": "no effect in the published code either; train.lr_G counts",
    "prob network_G.flow.noInitialInj": "no effect in the published code either",
    "mode": "NCSR and FS-NCSR are noise-conditional by themselves",
    "LRnoise": "NCSR and FS-NCSR put the noise on the LR image, too",
    "is_train": "train.py and test.py say it",
    "datasets.*.quant": "no effect in the published code, in training; images keep their 256 levels",
    "datasets.*.use_shuffle": "training data are always shuffled",
    "datasets.*.color network_G.in_nc network_G.out_nc": "images are RGB",
    "datasets.*.phase": "the data set's key says it",
    "datasets.*.scale network_G.scale": "the top-level scale counts",
    "datasets.*.data_type": "mode says it",
    "network_G.which_model_G": "model says it",
    "network_G.upscale": "no effect in the published code either; the top-level scale counts",
    "network_G.train_RRDB": "no effect in the published code; train_RRDB_delay is obeyed",
    "network_G.flow.conditionInFeaDim network_G.flow.fea_up0 network_G.flow.fea_up-1": "derived",
    "network_G.flow.stackRRDB.concat": "taps are always concatenated",
    "path.strict_load": "weights are always checked",
    "path.root": "folders are relative to the working directory",
    "path.experiments_root path.models path.training_state path.log": "path.experiments and name say it",
    "path.val_images": "samples go to TensorBoard and results/",
    "path.results_root": "path.results and name say it",
    "network_G.use_orig": "RRDB is built as published flows read it",
    "train.lr_steps": "lr_steps_rel counts",
    "test.heats": "val.heats counts",
}
# The same for the encoder alone.
RRDB_DROPPED = {
    "train.pixel_weight": "a factor on the whole loss: Adam's updates are the same",
    "train.weight_l1": "the pixel loss is the whole loss",
    "train.weight_fl": "there is no likelihood",
}
# The same for LLFlow.
LOW_LIGHT_MOVED = {"train_gt_ratio": "model.train_gt_ratio"}
LOW_LIGHT_DROPPED = {
    "align_weight align_maxpool": "no effect without align_condition_feature",
    "dataroot_unpaired": "test.py --input FOLDER takes images without ground truth",
    "datasets.*.use_crop": "GT_size says it",
    "datasets.*.noise_level": "no effect without noise_prob",
    "network_G.train_RRDB network_G.train_RRDB_delay": "no pretrained encoder exists: it learns from the start",
    "test.heats": "heat counts, or val.heats",
}
# Switches of variants that are not built: the value that is supported, and what it means.
LOW_LIGHT_ONLY: dict[str, tuple[Any, str]] = {
    "optimize_all_z avg_color_map histeq_as_input concat_color_map gray_map": (False, "off"),
    "align_condition_feature to_yuv encode_color_map le_curve datasets.*.gamma_aug": (False, "off"),
    "cond_encoder": ("ConEncoder1", "network_G.encoder: low_light"),
    "concat_histeq": (True, "the network always reads the equalised image beside the logarithm"),
    "datasets.*.log_low": (True, "the network always reads the logarithm"),
    "datasets.*.noise_prob": (0, "off"),
    "train.weight_fl": (1, "the likelihood is the loss"),
}
# Keys of validation and test sets that only training uses.
TRAINING_ONLY = ("batch_size", "n_workers", "use_flip", "use_rot")
# The published code ignores these values; ours obeys them unless `as_published: true` says otherwise.
OBEYED = {
    "train.beta1": "no effect in the published code; obeyed here, as_published: true takes 0.9",
    "train.beta2": "no effect in the published code; obeyed here, as_published: true takes 0.999",
    "network_G.train_RRDB_delay": "no effect in the published code; obeyed here, as_published: true takes 0",
}
# Values that mean what is done anyway, and what is done; another one is an error.
ONLY: dict[str, tuple[tuple[float, ...], str]] = {
    "train.weight_l1": ((0,), "flows learn by likelihood alone; model: RRDB learns by L1"),
    "train.weight_fl": ((0, 1), "the likelihood is the loss"),
    "train.weight_decay_G": ((0,), "there is no weight decay"),
}
ENCODER_ALONE = ("SR", "sr", "RRDB")
COSINE = ("CosineAnnealingLR_Restart", "CosineAnnealingRestartLR")
