"""Old import path of the loss functions, as means with the old names."""

from stillhouse.presets import KD_LOSS_MAP, MATCH_LOSS_MAP

kd_ce_loss = KD_LOSS_MAP["ce"]
kd_mse_loss = KD_LOSS_MAP["mse"]
att_mse_loss = MATCH_LOSS_MAP["attention_mse"]
att_mse_sum_loss = MATCH_LOSS_MAP["attention_mse_sum"]
att_ce_loss = MATCH_LOSS_MAP["attention_ce"]
att_ce_mean_loss = MATCH_LOSS_MAP["attention_ce_mean"]
hid_mse_loss = MATCH_LOSS_MAP["hidden_mse"]
cos_loss = MATCH_LOSS_MAP["cos"]
pkd_loss = MATCH_LOSS_MAP["pkd"]
fsp_loss = MATCH_LOSS_MAP["fsp"]
mmd_loss = MATCH_LOSS_MAP["mmd"]

__all__ = [
    "att_ce_loss", "att_ce_mean_loss", "att_mse_loss", "att_mse_sum_loss", "cos_loss", "fsp_loss", "hid_mse_loss",
    "kd_ce_loss", "kd_mse_loss", "mmd_loss", "pkd_loss",
]
